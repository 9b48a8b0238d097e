"""The native kernel against sums in float64, for every set of instructions that runs here.

Every array that is handed over is exactly as large as promised, so that a sanitizer sees a step
beyond its end.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matryo.core import Funnel, Precision
from matryo.search import FunnelSearch, Level, bounds_of, excess_of, kernel, to_blocks
from matryo.transforms import encode, fit_scales, truncate

built = kernel()
if built is None:
    pytest.skip("matryo was installed without its native kernel", allow_module_level=True)

TARGETS = built.instruction_sets()
BITS = {"int4": 4, "int2": 2, "binary": 1}
WEIGHTS = {"int4": 127, "int2": 127, "binary": 63}
NUMBERS = ("float32", "scaled", "float16", "int8")
KINDS = (*BITS, *NUMBERS)
PAGE = 1 << 16


every_target = pytest.mark.parametrize("target", TARGETS)


class Rows:
    """One level of one segment: what the kernel reads, and what the rows stand for.

    Args:
        kind: A packed precision, or one of `NUMBERS`; `scaled` is float32 cut and scaled on the
            way.
        form: `(n, dim)` what rows stand for: odd integers for packed codes; for `scaled` the rows
            before they are scaled.
        wider: Numbers that a stored row has beyond `dim`.
        steps: Of int8.
        checked: Which pages of a file were compared, and where the rows begin in it.
    """

    def __init__(self, kind, form, *, wider=0, steps=None, checked=None):
        self.kind, self.form = kind, form
        n, dim = form.shape
        if kind in BITS:
            bits = BITS[kind]
            unpacked = ((form[:, :, None] + 2**bits - 1) // 2 >> np.arange(bits)[::-1]) & 1
            codes = np.packbits(unpacked.reshape(n, -1).astype(np.uint8), axis=1)
            excess = bounds = None
            if bits > 1:
                level = Level(dim, Precision(kind))
                excess = excess_of(codes, level)
                bounds = bounds_of(excess, level).reshape(-1)
            blocks = to_blocks(codes).reshape(-1)
            self.level = built.packed_level(bits, dim, n, blocks, excess, bounds)
            return
        dtype = "float32" if kind == "scaled" else kind
        stored = np.full((n, dim + wider), 77, dtype)
        stored[:, :dim] = form if steps is None else np.rint(form / steps)
        self.level = built.number_level(stored, dim, steps, kind == "scaled", checked)
        if kind == "scaled":
            wide = form.astype(float)
            self.form = (wide / np.sqrt(np.square(wide).sum(1, keepdims=True))).astype(np.float32)


def longest_of(forms):
    return float(np.sqrt(np.square(forms.astype(float)).sum(axis=1)).max())


def plain_scores(kind, forms, query, metric):
    """Scores of all rows, and how far others may be off that sum up in another order."""
    dim = forms.shape[1]
    asked = query[:dim].astype(float)
    if metric == "cosine":
        asked /= np.abs(asked).max()
        asked /= np.sqrt(np.square(asked).sum())
        if query.dtype == np.float32:
            asked = asked.astype(np.float32).astype(float)
    if kind in BITS:
        step = np.float32(np.abs(asked).max() / WEIGHTS[kind])
        sums = forms.astype(np.int64) @ np.rint(asked / step).astype(np.int64)
        lengths = np.sqrt(np.square(forms.astype(np.int64)).sum(axis=1).astype(np.float32))
        scores = sums.astype(np.float32) * (np.float32(1) / lengths) * step
        return scores, np.zeros(len(scores))
    wide = forms.astype(float)
    products = -np.square(wide - asked) if metric == "l2" else wide * asked
    scores = products.sum(axis=1).astype(np.float32)
    return scores, np.spacing(np.abs(scores)) + 1e-14 * np.abs(products).sum(axis=1)


def plain_funnel(stages, kinds, forms, ranks, living, query, metric, margin=None):
    """Rows and scores of a funnel, and whether no cut went through scores that may be off.

    `stages` are numbers of levels and rows to keep; `forms` has all rows of each level; `ranks` is
    the place of each row in the order of ids.
    """
    rows, clear = np.flatnonzero(living), True
    for place, (level, keep) in enumerate(stages):
        last = place == len(stages) - 1
        scores, off = plain_scores(kinds[level], forms[level][rows], query, metric)
        order = np.lexsort((ranks[rows], -scores))
        kept = keep if margin is None or last else max(keep, margin[0])
        if kept < len(rows):
            cut = scores[order[kept - 1]]
            near = np.abs(scores - cut) <= 2 * off[order[kept - 1]]
            same = (forms[level][rows[near]] == forms[level][rows[order[kept - 1]]]).all()
            clear &= bool(same) or not off.any()
        rows, scores = rows[order[:kept]], scores[order[:kept]]
        if margin is not None and not last and len(rows) > margin[0]:
            probe, width, lines = margin
            after, goal = stages[place + 1][0], stages[-1][1]
            ahead, _ = plain_scores(kinds[after], forms[after][rows[:probe]], query, metric)
            bar = float(np.sort(ahead)[::-1][:goal][-1])
            slope, height, spread = lines[place]
            passed = scores.astype(float) >= slope * bar + height - width * spread
            passed[:probe] = True
            rows, scores = rows[passed], scores[passed]
    return rows, scores, clear


def nothing(segment, page):
    raise AssertionError(f"page {page} of segment {segment} was checked before")


def found(target, segments, stages, queries, *, living, metric="cosine", threads=1, **others):
    """What the kernel says, as a list of rows and scores; `stages` are (level, keep, longest)."""
    options = {"margin": None, "check": nothing, **others}
    rows, scores, counts, works, microseconds = built.search(
        segments=segments,
        target=target,
        queries=queries,
        stages=[(*stage, 0) for stage in stages],
        living=living,
        metric=metric,
        margin=options["margin"],
        certain=False,
        check=options["check"],
        threads=threads,
    )
    assert rows.shape == scores.shape == (len(queries), max(counts, default=0))
    assert works.shape == (len(queries), len(stages), 2)
    assert (microseconds >= 0).all()
    assert np.array_equal(works[:, -1, 1], counts)
    assert np.array_equal(works[:, 1:, 0], works[:, :-1, 1])
    return [
        (own[:count], right[:count]) for own, right, count in zip(rows, scores, counts, strict=True)
    ]


def mask_of(alive):
    bits = np.packbits(np.pad(alive, (0, -len(alive) % 32)), bitorder="little")
    return bits.view("<u4").copy()


def names_of(rng, n, *, text):
    """Different ids, shuffled; texts of all lengths, as bytes."""
    if not text:
        return rng.permutation(np.arange(n, dtype=np.int64) * 3 - n)
    letters = [
        letter.encode() for letter in ("a", "\0", "z", "ä", "ß", "€", "\uffff", "\U0001f600")
    ]
    names = {b""}
    while len(names) < n:
        names.add(b"".join(letters[i] for i in rng.integers(0, 8, rng.integers(0, 12))))
    return rng.permutation(np.array(sorted(names), object))


def add(segments, names, levels):
    """Add a segment whose ascending ids are these."""
    if names.dtype == object:
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        segments.add_texts(ends, np.frombuffer(b"".join(names), np.uint8), levels)
    else:
        segments.add_integers(names, levels)


def forms_of(rng, kind, n, dim, style, scale=1.0):
    """What rows of a kind stand for, many of them equal; with the steps of int8."""
    steps = None
    if kind in BITS:
        form = 2 * rng.integers(0, 2 ** BITS[kind], (n, dim)) - (2 ** BITS[kind] - 1)
    elif kind == "int8":
        codes = (
            rng.integers(-127, 128, (n, dim)) if style != "few" else rng.integers(-2, 3, (n, dim))
        )
        steps = (2.0 ** rng.integers(-6, 2, dim) * scale).astype(np.float32)
        form = codes.astype(np.float32) * steps
    elif kind == "float16" and style == "all":
        # every half that is finite, among them subnormals and -0, up to 1/8
        form = (rng.integers(0, 12 << 10, (n, dim)) | rng.integers(0, 2, (n, dim)) << 15).astype(
            np.uint16
        )
        form = form.view(np.float16).astype(np.float32)
    elif style == "all" and kind != "float16":
        form = rng.normal(size=(n, dim)).astype(np.float32) * np.float32(scale)
    else:
        form = rng.integers(-3, 4, (n, dim)).astype(np.float32)
        form *= np.float32(1 if kind == "float16" else scale)
        form[form == 0] *= -1
    if kind == "scaled":
        form[:, 0] = np.where(form.any(axis=1), form[:, 0], np.float32(scale))
    same = rng.random(n) < 0.4
    form[same] = form[rng.integers(0, n, same.sum())]
    return form, steps


@st.composite
def cases(draw, kinds, metrics, most_rows=200, most_dims=300, most_queries=70):
    """Segments with some levels, and everything that a search is asked with."""
    metric = draw(st.sampled_from(metrics))
    style = draw(st.sampled_from(["few", "all"]))
    sizes = draw(st.lists(st.integers(1, most_rows), min_size=1, max_size=4))
    own = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
    dims = draw(st.lists(st.integers(1, most_dims), min_size=len(own), max_size=len(own)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, scale = sum(sizes), 2.0 ** draw(st.integers(-75, 48))
    scale = 1.0 if "float16" in own else scale
    made = [
        forms_of(rng, kind, n, dim, style, 1.0 if metric == "cosine" and kind == "int8" else scale)
        for kind, dim in zip(own, dims, strict=True)
    ]
    names = names_of(rng, n, text=draw(st.booleans()))
    ends = np.cumsum(sizes)
    segments, wider = built.Segments(), draw(st.sampled_from([0, 0, 1, 5]))
    for start, stop in zip(ends - sizes, ends, strict=True):
        part = slice(start, stop)
        names[part] = np.sort(names[part])
        levels = [
            Rows(kind, form[part], wider=wider, steps=steps)
            for kind, (form, steps) in zip(own, made, strict=True)
        ]
        add(segments, names[part], [level.level for level in levels])
    forms = [
        Rows(kind, form, steps=steps).form for kind, (form, steps) in zip(own, made, strict=True)
    ]
    alive = np.ones(n, bool)
    if draw(st.booleans()):
        alive = rng.random(n) < draw(st.sampled_from([0.02, 0.5, 0.95]))
    dead = draw(st.integers(0, len(sizes)))
    if dead < len(sizes):
        alive[ends[dead] - sizes[dead] : ends[dead]] = False
    own_alive = np.split(alive, ends[:-1])
    living = [None if part.all() else mask_of(part) for part in own_alive]
    count = draw(st.sampled_from([1, 2, 3, 4, 5, 9, 33, most_queries]))
    queries = rng.integers(-3, 4, (count, max(dims) + draw(st.integers(0, 2)))).astype(float)
    if style == "all" and metric == "cosine":
        queries = rng.normal(size=queries.shape)
    queries[:, 0] += queries[:, 0] == 0
    queries *= 1.0 if metric == "cosine" else scale
    queries = queries.astype(draw(st.sampled_from([np.float32, np.float64])))
    levels = draw(st.lists(st.integers(0, len(own) - 1), min_size=1, max_size=3))
    keeps = [draw(st.one_of(st.integers(1, 20), st.integers(1, n + 5))) for _ in levels]
    ranks = np.empty(n, np.int64)
    ranks[np.argsort(names)] = np.arange(n)
    return {
        "kinds": own, "forms": forms, "segments": segments, "alive": alive, "living": living,
        "queries": queries, "metric": metric, "stages": list(zip(levels, keeps, strict=True)),
        "ranks": ranks, "threads": draw(st.integers(1, 3)),
        # sums of few and small numbers, times powers of two, are the same in any order
        "exact": set(own) <= set(BITS) or (metric != "cosine" and style == "few"),
    }  # fmt: skip


def check(case, target, margin=None):
    """Compare what the kernel finds with the plain funnel; returns the answers."""
    longest = [longest_of(forms) if kind not in BITS else 1.0
               for kind, forms in zip(case["kinds"], case["forms"], strict=True)]  # fmt: skip
    answers = found(
        target,
        case["segments"],
        [(level, keep, longest[level]) for level, keep in case["stages"]],
        case["queries"],
        living=case["living"],
        metric=case["metric"],
        margin=None if margin is None else built.Margin(*margin),
        threads=case["threads"],
    )
    kinds, forms, ranks, metric = (case[key] for key in ("kinds", "forms", "ranks", "metric"))
    stages, last = case["stages"], case["stages"][-1][0]
    for query, (rows, scores) in zip(case["queries"], answers, strict=True):
        expected, right, clear = plain_funnel(
            stages, kinds, forms, ranks, case["alive"], query, metric, margin
        )
        if case["exact"]:
            assert rows.tolist() == expected.tolist()
            # 0 and -0 are one score
            assert (scores + np.float32(0)).tobytes() == (right + np.float32(0)).tobytes()
            continue
        own, off = plain_scores(kinds[last], forms[last][rows], query, metric)
        assert (np.abs(scores.astype(float) - own) <= off).all()
        falls = np.diff(scores) < 0
        assert (falls | ((np.diff(scores) == 0) & (np.diff(ranks[rows]) > 0))).all()
        if clear:
            assert set(rows.tolist()) == set(expected.tolist())
    return answers


PACKED = (tuple(BITS), ["cosine"])
COSINES = (KINDS, ["cosine"])
OTHERS = (("float32", "float16", "int8"), ["dot", "l2"])


@every_target
@pytest.mark.parametrize("which", [PACKED, COSINES, OTHERS], ids=["packed", "cosine", "others"])
@settings(max_examples=20)
@given(data=st.data())
def test_small_segments_are_answered_as_in_float64(target, which, data):
    check(data.draw(cases(*which, most_rows=70, most_dims=70, most_queries=20)), target)


@pytest.mark.slow
@every_target
@pytest.mark.parametrize("which", [PACKED, COSINES, OTHERS], ids=["packed", "cosine", "others"])
@settings(max_examples=100)
@given(data=st.data())
def test_larger_segments_are_answered_as_in_float64(target, which, data):
    check(data.draw(cases(*which)), target)


@pytest.mark.slow
@every_target
@pytest.mark.parametrize("which", [PACKED, COSINES, OTHERS], ids=["packed", "cosine", "others"])
@settings(max_examples=100)
@given(data=st.data())
def test_a_margin_lets_as_many_rows_pass_as_in_float64(target, which, data):
    case = data.draw(cases(*which, most_dims=70, most_queries=9))
    lines = [
        (data.draw(st.floats(0, 1)), data.draw(st.floats(-1, 1)), data.draw(st.floats(0, 1)))
        for _ in case["stages"][1:]
    ]
    margin = data.draw(st.integers(1, 100)), data.draw(st.floats(-2, 2)), lines
    if not case["exact"]:  # a row at the bar itself may pass or not
        case["stages"], margin = case["stages"][:1], None
    check(case, target, margin)


def made(vectors, levels, sizes, scales=None):
    """Segments of vectors, whose ids are their numbers, as codes of some levels."""
    segments, start = built.Segments(), 0
    for size in sizes:
        part, own = vectors[start : start + size], []
        for level in levels:
            prefix, steps = truncate(part, level.dim), None
            if level.precision.is_packed:
                form = _odd(encode(prefix, level.precision), level)
            elif level.precision is Precision.INT8:
                steps = scales[level.dim]
                form = encode(prefix, level.precision, scales=steps) * steps
            else:
                form = prefix
            own.append(Rows(str(level.precision), form, steps=steps).level)
        segments.add_integers(np.arange(start, start + size), own)
        start += size
    return segments


def _odd(codes, level):
    bits = level.precision.bits
    unpacked = np.unpackbits(codes, axis=1).reshape(len(codes), -1, bits)[:, : level.dim]
    numbers = (unpacked * 2 ** np.arange(bits)[::-1]).sum(axis=2)
    return 2 * numbers - (2**bits - 1)


@every_target
@pytest.mark.parametrize(
    "text",
    [
        "70@binary:900,96@int4:120,96@int8:30,96:7",
        "33@int4:300,96@float16:40,96:10,margin[20;1.0;0.9/0.02/0.05;1.0/0.0/0.02]",
        "96@int2:300,40@binary:40,margin[40;0.5;0.5/-0.1/0.1]",
        "33@int4:9,96@int8:8,96:7,margin[60;0.0;0.9/0.2/0.0;0.9/0.1/0.0]",
        "50@int8:200,96:10",
        "96:3",
    ],
)
def test_it_answers_as_the_search_in_memory(target, text):
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(9100, 96)).astype(np.float32)
    vectors[5000:5400] = vectors[100:500]
    queries = (vectors[:70] + rng.normal(size=(70, 96))).astype(np.float32)
    funnel = Funnel.parse(text)
    levels = [Level(stage.dim, stage.precision) for stage in funnel.stages]
    scales = {level.dim: fit_scales(truncate(vectors, level.dim)) for level in levels}
    reference = FunnelSearch(vectors, funnel, scales=scales)
    stop = funnel.stop
    lines = [(line.slope, line.level, line.spread) for line in stop.lines] if stop else []

    for threads, asked in ((1, queries), (2, queries), (3, queries[:4])):
        answers = found(
            target,
            made(vectors, levels, (4097, 1, 31, 4971), scales),
            [(i, stage.keep, 1.01) for i, stage in enumerate(funnel.stages)],
            asked,
            living=[None] * 4,
            margin=built.Margin(stop.probe, stop.width, lines) if stop else None,
            threads=threads,
        )

        for query, (rows, scores) in zip(asked, answers, strict=True):
            answer = reference.search(query)
            assert rows.tolist() == answer.rows.tolist()
            np.testing.assert_array_max_ulp(scores, answer.scores, 1)
            if levels[-1].precision.is_packed:
                assert scores.tobytes() == answer.scores.tobytes()


@pytest.mark.parametrize("target", TARGETS[:-1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_set_of_instructions_gives_the_same_answers(target, kind):
    rng = np.random.default_rng(9)
    form, steps = forms_of(rng, kind, 700, 261, "all")
    segments = built.Segments()
    segments.add_integers(np.arange(700), [Rows(kind, form, steps=steps).level])
    queries = rng.normal(size=(40, 261)).astype(np.float32)

    answers, plainest = (
        found(each, segments, [(0, 60, longest_of(form))], queries, living=[None])
        for each in (target, TARGETS[-1])
    )

    for (rows, scores), (expected, right) in zip(answers, plainest, strict=True):
        assert rows.tolist() == expected.tolist()
        if kind in BITS:
            assert scores.tobytes() == right.tobytes()
        else:
            np.testing.assert_array_max_ulp(scores, right, 1)


@every_target
@pytest.mark.parametrize("kind", ["int4", "binary", "float32", "int8"])
@pytest.mark.parametrize("threads", [2, 5])
def test_one_query_may_be_spread_over_threads(target, kind, threads):
    rng = np.random.default_rng(10)
    sizes, dim = (9001, 63, 12_000), 200
    form, steps = forms_of(rng, kind, sum(sizes), dim, "few")
    alive = rng.random(sum(sizes)) < 0.9
    case = {"kinds": [kind], "segments": built.Segments(), "alive": alive, "metric": "cosine"}
    ends = np.cumsum(sizes)
    for start, stop in zip(ends - sizes, ends, strict=True):
        level = Rows(kind, form[start:stop], steps=steps).level
        case["segments"].add_integers(np.arange(start, stop), [level])
    case |= {
        "forms": [Rows(kind, form, steps=steps).form],
        "living": [mask_of(part) for part in np.split(alive, ends[:-1])],
        "queries": rng.normal(size=(1, dim)).astype(np.float32),
        "stages": [(0, 50)],
        "ranks": np.arange(sum(sizes)),
        "threads": threads,
        "exact": kind in BITS,
    }

    check(case, target)


@every_target
@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_rows_that_float32_cannot_tell_apart_are_put_in_order(target, kind):
    """What all rows share is long and nearly at a right angle to the queries."""
    rng = np.random.default_rng(13)
    shared = rng.integers(-100, 101, 200)
    form = rng.integers(-100, 101, (2000, 300)) * np.float32(2.0**-24)
    form[:, :200] = shared
    steps = np.float32(2.0) ** np.where(np.arange(300) < 200, 0, -24).astype(np.float32)
    queries = rng.normal(size=(5, 300))
    queries[:, :200] -= np.outer(queries[:, :200] @ shared, shared) / (shared @ shared)
    level = Rows(kind, form.astype(np.float32), steps=steps if kind == "int8" else None)
    segments = built.Segments()
    segments.add_integers(np.arange(2000), [level.level])
    case = {
        "kinds": [kind],
        "forms": [level.form],
        "segments": segments,
        "alive": np.ones(2000, bool),
        "living": [None],
        "queries": queries,
        "metric": "dot",
        "stages": [(0, 10)],
        "ranks": np.arange(2000),
        "threads": 1,
        "exact": False,
    }

    answers = check(case, target)

    for query, (rows, _) in zip(queries, answers, strict=True):
        assert (
            rows.tolist() == np.argsort(-(form[:, 200:].astype(float) @ query[200:]))[:10].tolist()
        )


@every_target
@pytest.mark.parametrize("dim", [1, 7, 128, 8191])
@pytest.mark.parametrize("kind", BITS)
def test_the_largest_sums_neither_wrap_nor_saturate(target, kind, dim):
    if kind == "int4":
        dim = min(dim, 2340)
    largest = 2 ** BITS[kind] - 1
    form = np.full((3, dim), largest)
    form[1], form[2, ::2] = -largest, -largest
    segments = built.Segments()
    segments.add_integers(np.arange(3), [Rows(kind, form).level])
    queries = np.array([np.ones(dim), -np.ones(dim), [(-1) ** (i + 1) for i in range(dim)]])

    answers = found(target, segments, [(0, 1, 1.0)], queries, living=[None])

    assert [rows.tolist() for rows, _ in answers] == [[0], [1], [1 if dim == 1 else 2]]
    assert [scores[0] for _, scores in answers] == pytest.approx([1, 1, 1], rel=1e-6)


@every_target
def test_rows_too_small_to_square_in_float32_are_scaled(target):
    form = (np.array([[1, 2], [2, 1], [-1, 3]]) * 2.0**-140).astype(np.float32)
    segments = built.Segments()
    segments.add_integers(np.arange(3), [Rows("scaled", form).level])

    ((rows, scores),) = found(
        target, segments, [(0, 3, 1.01)], np.array([[1e-300, 2e-300]]), living=[None]
    )

    assert rows.tolist() == [0, 1, 2]
    assert scores == pytest.approx([1, 0.8, 0.5**0.5], rel=1e-6)


@every_target
def test_nobody_alive_is_nothing_found(target):
    segments = built.Segments()
    for start in (0, 40):
        segments.add_integers(
            np.arange(start, start + 40), [Rows("float32", np.ones((40, 3), np.float32)).level]
        )
    none = [mask_of(np.zeros(40, bool))] * 2

    for n in (0, 1, 9):
        answers = found(target, segments, [(0, 5, 2.0)], np.ones((n, 3)), living=none)
        assert [len(rows) for rows, _ in answers] == [0] * n


class TestPages:
    """Rows of a file whose pages are compared with checksums as they are needed."""

    WIDTH = 5000  # 20,000 bytes: a row may lie across pages
    OFFSET = PAGE - 64

    def opened(self, checked):
        rng = np.random.default_rng(11)
        self.form = rng.normal(size=(40, self.WIDTH)).astype(np.float32)
        segments = built.Segments()
        for start in (0, 20):
            part = self.form[start : start + 20]
            levels = [
                Rows("float32", part[:, :9].copy()).level,
                Rows("scaled", part, checked=(checked[start > 0], self.OFFSET)).level,
            ]
            segments.add_integers(np.arange(start, start + 20), levels)
        return segments

    def none(self):
        last = (self.OFFSET + 20 * self.WIDTH * 4 - 1) // PAGE
        return [np.zeros(last + 1, bool), np.zeros(last + 1, bool)]

    def needed(self, rows):
        pages = set()
        for row in rows.tolist():
            start = self.OFFSET + row % 20 * self.WIDTH * 4
            stop = start + self.WIDTH * 4 - 1
            pages |= {(row // 20, page) for page in range(start // PAGE, stop // PAGE + 1)}
        return pages

    def search(self, target, segments, queries, check, **others):
        stages = [(0, 3, 200.0), (1, 3, 1.01)]
        return found(target, segments, stages, queries, living=[None, None], check=check, **others)

    @every_target
    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("n", [1, 9])
    def test_pages_of_rows_that_are_read_are_asked_for_until_they_are_checked(
        self, target, threads, n
    ):
        checked, calls = self.none(), []
        segments = self.opened(checked)
        queries = np.random.default_rng(n).normal(size=(n, self.WIDTH))

        def note(segment, page):
            calls.append((segment, page))
            checked[segment][page] = True

        answers = self.search(target, segments, queries, note, threads=threads)
        again = self.search(target, segments, queries, nothing, threads=threads)

        assert set(calls) == set().union(*(self.needed(rows) for rows, _ in answers))
        assert [rows.tolist() for rows, _ in again] == [rows.tolist() for rows, _ in answers]

    @every_target
    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("n", [1, 40])
    def test_an_exception_comes_out_and_the_next_search_works(self, target, threads, n):
        checked = self.none()
        segments = self.opened(checked)
        queries = np.random.default_rng(n).normal(size=(n, self.WIDTH))

        def refuse(segment, page):
            raise OSError(f"page {page} is damaged")

        for _ in range(3):
            with pytest.raises(OSError, match=r"page \d+ is damaged"):
                self.search(target, segments, queries, refuse, threads=threads)
        for pages in checked:
            pages[:] = True
        answers = self.search(target, segments, queries, nothing, threads=threads)
        assert [len(rows) for rows, _ in answers] == [3] * n


@every_target
def test_searches_of_several_threads_run_side_by_side(target):
    rng = np.random.default_rng(12)
    form = rng.normal(size=(3000, 40)).astype(np.float32)
    segments = built.Segments()
    segments.add_integers(np.arange(3000), [Rows("float32", form).level])
    queries, answers = rng.normal(size=(4, 20, 40)), [None] * 4

    def run(place):
        own = found(target, segments, [(0, 5, 20.0)], queries[place], living=[None], threads=2)
        answers[place] = [rows.tolist() for rows, _ in own]

    workers = [threading.Thread(target=run, args=(place,)) for place in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    alone = [found(target, segments, [(0, 5, 20.0)], own, living=[None]) for own in queries]
    assert answers == [[rows.tolist() for rows, _ in own] for own in alone]


def packed(bits=4, dim=8, rows=40, *, lengths=40, bounds=4, blocks=256):
    several = bits > 1 or None
    return built.packed_level(
        bits,
        dim,
        rows,
        np.zeros(blocks, np.uint8),
        several and np.zeros(lengths, np.uint16),
        several and np.ones(bounds, np.float32),
    )


def numbers(n=40, dim=8, dtype=np.float32, *, steps=None, read=None, checked=None):
    stored = np.ones((n, dim), dtype)
    steps = None if steps is None else np.ones(steps, np.float32)
    return built.number_level(stored, read or dim, steps, False, checked)


def segments_of(*parts):
    """Segments of 40 rows each, given their levels."""
    segments = built.Segments()
    for place, levels in enumerate(parts):
        segments.add_integers(np.arange(40 * place, 40 * place + 40), levels)
    return segments


class TestRefusals:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: packed(blocks=255),
            lambda: packed(blocks=128),
            lambda: packed(rows=65),
            lambda: packed(lengths=39),
            lambda: packed(bounds=3),
            lambda: packed(bounds=6),
            lambda: packed(dim=9),
            lambda: packed(rows=0, blocks=0, lengths=0, bounds=0),
            lambda: packed(rows=-5, blocks=0, lengths=0, bounds=0),
            lambda: packed(1, 32, rows=-5, blocks=0),
            lambda: built.packed_level(4, 8, 1, np.zeros(128, np.uint8), None, None),
            lambda: numbers(read=9),
            lambda: numbers(read=-1),
            lambda: numbers(dtype=np.int8),
            lambda: numbers(dtype=np.int8, steps=7),
            lambda: numbers(dtype=np.int8, steps=9),
            lambda: numbers(dtype=np.float64),
            lambda: numbers(dtype=np.uint8),
        ],
    )
    def test_levels_that_do_not_fit_together(self, make):
        with pytest.raises(ValueError, match=r"expected|int8 needs steps"):
            make()

    def asked(self, **changes):
        return {
            "target": TARGETS[0],
            "segments": segments_of([numbers()]),
            "stages": [(0, 3, 9.0)],
            "queries": np.ones((5, 8)),
            "living": [None],
            **changes,
        }

    @pytest.mark.parametrize(
        "change",
        [
            {"target": "sse9"},
            {"target": ""},
            {"stages": [(0, 0, 9.0)]},
            {"stages": [(0, -3, 9.0)]},
            {"stages": [(1, 3, 9.0)]},
            {"stages": [(-1, 3, 9.0)]},
            {"queries": np.ones((1, 7))},
            {"living": []},
            {"living": [None, None]},
            {"living": [np.ones(1, np.uint32)]},
        ],
        ids=lambda change: " ".join(change),
    )
    def test_searches_that_cannot_be_run(self, change):
        with pytest.raises(ValueError, match=r"expected|no such set of instructions"):
            found(**self.asked(**change))

    @pytest.mark.parametrize(
        "change",
        [
            {"stages": []},
            {"threads": 0},
            {"threads": -1},
            {"metric": "euclid"},
        ],
        ids=lambda change: " ".join(change),
    )
    def test_other_searches_that_cannot_be_run(self, change):
        with pytest.raises(ValueError, match="expected"):
            found(**self.asked(**change))

    @pytest.mark.parametrize(
        ("probe", "lines"), [(5, []), (5, [(1, 0, 0)] * 2), (0, [(1, 0, 0)]), (-9, [(1, 0, 0)])]
    )
    def test_a_margin_that_does_not_fit_the_stages(self, probe, lines):
        stages = [(0, 30, 9.0), (0, 3, 9.0)]
        with pytest.raises(ValueError, match="expected"):
            found(**self.asked(stages=stages), margin=built.Margin(probe, 1.0, lines))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: packed(bits=0),
            lambda: packed(bits=3),
            lambda: packed(bits=8),
            lambda: packed(dim=0),
            lambda: packed(dim=-1),
            lambda: packed(dim=2**30),
            lambda: built.packed_level(
                1, 8, 1, np.zeros(128, np.uint8), np.zeros(1, np.uint16), None
            ),
            lambda: numbers(dtype=np.int16),
            lambda: numbers(checked=(np.zeros(0, bool), 0)),
            lambda: numbers(checked=(np.zeros(1, bool), PAGE - 1279)),
            lambda: numbers(checked=(np.zeros(1, bool), -1)),
        ],
    )
    def test_other_levels_that_do_not_fit_together(self, make):
        with pytest.raises(ValueError, match="expected"):
            make()

    @pytest.mark.parametrize(
        "parts",
        [
            lambda: [[]],
            lambda: [[None]],
            lambda: [[numbers(39)]],
            lambda: [[numbers(), numbers(41)]],
            lambda: [[numbers()], [numbers(dim=9)]],
            lambda: [[numbers()], [packed()]],
            lambda: [[packed()], [numbers()]],
            lambda: [[packed()], [packed(2)]],
            lambda: [[numbers()], [numbers(dtype=np.float16)]],
        ],
    )
    def test_segments_whose_levels_do_not_fit_together(self, parts):
        own = parts()
        with pytest.raises(ValueError, match="expected"):
            segments_of(*own)

    @pytest.mark.parametrize("last", [-1, 38, 41, 2**40])
    def test_ends_of_texts_that_lie_outside(self, last):
        ends = np.arange(1, 41)
        ends[-1] = last
        with pytest.raises(ValueError, match="expected"):
            built.Segments().add_texts(ends, np.full(40, 97, np.uint8), [numbers()])

    def test_segments_of_texts_and_of_integers(self):
        segments = segments_of([numbers()])
        with pytest.raises(ValueError, match="expected"):
            segments.add_texts(np.arange(1, 41), np.full(40, 97, np.uint8), [numbers()])

    def test_rows_and_queries_without_a_direction(self):
        rows = np.ones((40, 8), np.float32)
        rows[33] = 0
        segments = segments_of([built.number_level(rows, 8, None, True, None)])
        for queries in (np.ones((1, 8)), np.ones((90, 8))):
            with pytest.raises(ValueError, match="only zeros remain"):
                found(**self.asked(segments=segments, queries=queries))
            dead = mask_of(rows.any(axis=1))
            found(**self.asked(segments=segments, queries=queries, living=[dead]))

    @pytest.mark.parametrize("keep", [10**9, 10**13, 2**62])
    def test_more_rows_than_there_are_need_no_more_room(self, keep):
        stages = [(0, keep, 9.0), (0, keep, 9.0)]
        margin = built.Margin(keep, 1.0, [(1.0, 0.0, 0.0)])
        for n, own in ((1, None), (90, None), (3, margin)):
            queries = np.ones((n, 8))
            answers = found(**self.asked(stages=stages, queries=queries), margin=own)
            assert [len(rows) for rows, _ in answers] == [40] * n

    def test_no_segments(self):
        with pytest.raises(ValueError, match="expected at least one segment"):
            found(**self.asked(segments=built.Segments(), living=[]))

    def test_segments_of_different_levels(self):
        segments = segments_of([numbers()])
        with pytest.raises(ValueError, match="expected as many levels"):
            segments.add_integers(np.arange(40), [numbers(), numbers()])

    @pytest.mark.parametrize(
        ("what", "value"),
        [
            ("queries", np.ones(8)),
            ("living", [np.ones((2, 2), np.uint32)]),
            ("segments", None),
        ],
    )
    def test_other_types_are_no_call_at_all(self, what, value):
        with pytest.raises((TypeError, ValueError)):
            found(**self.asked(**{what: value}))
