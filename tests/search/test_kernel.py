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
        segments,
        target,
        queries,
        [(*stage, 0) for stage in stages],
        living,
        metric,
        options["margin"],
        options["check"],
        threads,
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
    n, scale = sum(sizes), 2.0 ** draw(st.integers(-40, 40))
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
    queries = queries.astype(draw(st.sampled_from([np.float32, np.float64])))
    levels = draw(st.lists(st.integers(0, len(own) - 1), min_size=1, max_size=3))
    keeps = [draw(st.one_of(st.integers(1, 20), st.integers(1, n + 5))) for _ in levels]
    ranks = np.empty(n, np.int64)
    ranks[np.argsort(names)] = np.arange(n)
    return {
        "kinds": own, "forms": forms, "segments": segments, "alive": alive, "living": living,
        "queries": queries, "metric": metric, "stages": list(zip(levels, keeps, strict=True)),
        "ranks": ranks, "threads": draw(st.integers(1, 3)),
    }  # fmt: skip


def check(case, target, *, exact, margin=None):
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
        if exact:
            assert rows.tolist() == expected.tolist()
            assert scores.tobytes() == (right + np.float32(0)).tobytes()
            continue
        own, off = plain_scores(kinds[last], forms[last][rows], query, metric)
        assert (np.abs(scores.astype(float) - own) <= off).all()
        falls = np.diff(scores) < 0
        assert (falls | ((np.diff(scores) == 0) & (np.diff(ranks[rows]) > 0))).all()
        if clear:
            assert set(rows.tolist()) == set(expected.tolist())
    return answers


@every_target
@settings(max_examples=25)
@given(case=cases(tuple(BITS), ["cosine"], most_rows=70, most_dims=70, most_queries=20))
def test_packed_codes_are_scored_and_ordered_to_the_last_bit(target, case):
    check(case, target, exact=True)


@every_target
@settings(max_examples=25)
@given(case=cases(KINDS, ["cosine"], most_rows=70, most_dims=70, most_queries=20))
def test_cosines_are_those_of_float64_and_ties_are_settled_by_id(target, case):
    check(case, target, exact=False)


@every_target
@settings(max_examples=25)
@given(case=cases(("float32", "float16", "int8"), ["dot", "l2"], 70, 70, 20))
def test_products_and_distances_are_those_of_float64(target, case):
    check(case, target, exact=False)


@pytest.mark.slow
@every_target
@settings(max_examples=40)
@given(case=cases(tuple(BITS), ["cosine"]))
def test_more_packed_codes_are_scored_and_ordered_to_the_last_bit(target, case):
    check(case, target, exact=True)


@pytest.mark.slow
@every_target
@settings(max_examples=40)
@given(case=cases(KINDS, ["cosine"]))
def test_more_cosines_are_those_of_float64(target, case):
    check(case, target, exact=False)


@pytest.mark.slow
@every_target
@settings(max_examples=40)
@given(case=cases(("float32", "float16", "int8"), ["dot", "l2"]))
def test_more_products_and_distances_are_those_of_float64(target, case):
    check(case, target, exact=False)
