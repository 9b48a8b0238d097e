"""Answers of an index against the reference, over rows spread, deleted, replaced and filtered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stores.made import QUERIES, SPACE, WIDTH, Model, columns, make, rows_of, steps_for

from matryo.core import (
    Funnel,
    InputError,
    Line,
    Margin,
    Plan,
    Precision,
    Space,
    Stage,
    Threshold,
    UnknownNameError,
    UnsupportedError,
)
from matryo.search import FunnelSearch, run
from matryo.stores import Index


@st.composite
def funnels(draw, metric):
    """Any funnel that FunnelSearch can run over 16 numbers."""
    keeps = sorted(draw(st.lists(st.integers(1, 90), min_size=1, max_size=3)), reverse=True)
    if draw(st.integers(0, 4)) == 0:
        inner = draw(st.sets(st.integers(1, WIDTH - 1), max_size=len(keeps) - 1))
        dims = [*sorted(inner), WIDTH]
        text = ",".join(f"{dim}:{keep}" for dim, keep in zip(dims, keeps, strict=False))
        return Funnel.parse(f"{text},exact")
    precisions = [p for p in Precision if metric == "cosine" or not p.is_packed]
    stages = tuple(
        Stage(draw(st.integers(1, WIDTH)), keep, draw(st.sampled_from(precisions)))
        for keep in keeps
    )
    if draw(st.booleans()):
        return Funnel(stages)
    lines = tuple(
        Line(draw(st.floats(0, 1)), draw(st.floats(-1, 1)), draw(st.floats(0, 1)))
        for _ in stages[1:]
    )
    probe = draw(st.integers(keeps[-1], 100))
    return Funnel(stages, Margin(probe, draw(st.floats(-2, 2)), lines))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**16), twins=st.booleans(), text=st.booleans())
def test_every_funnel_answers_as_in_memory_to_the_last_bit(
    metric, data, seed, twins, text, tmp_path_factory
):
    funnel = data.draw(funnels(metric))
    model = Model(funnel, metric)
    rng = np.random.default_rng(seed)
    vectors = rows_of(seed, 120)
    if twins:
        vectors = np.repeat(vectors[:12], 10, axis=0)[rng.permutation(120)]
    names = rng.permutation(120).tolist()
    ids = [f"doc {name}" for name in names] if text else names
    folder = tmp_path_factory.mktemp("index") / "i"

    with make(folder, funnel, {}, replace(SPACE, metric=metric)) as index:
        for part in (slice(0, 50), slice(50, 51), slice(51, 120)):
            index.add(ids[part], vectors[part])
        model.put(ids, vectors, {})
        index.delete(ids[10:30])
        for name in ids[10:30]:
            del model.rows[name]
        index.upsert(ids[28:34], vectors[:6])
        model.put(ids[28:34], vectors[:6], {})
        model.check(index)
        index.compact()
        model.check(index)


@pytest.mark.parametrize("compacted", [False, True])
def test_of_equal_scores_the_smaller_id_goes_first_wherever_it_lies(tmp_path, compacted):
    with make(tmp_path / "i", Funnel.parse("8@binary:4,16:3"), {}) as index:
        for ids in ([30, 2], [100, 7], [9]):
            index.add(ids, np.ones((len(ids), WIDTH), np.float32))
        if compacted:
            index.compact()

        assert index.search(np.ones((1, WIDTH))).ids == [[2, 7, 9]]


def test_texts_are_tied_by_code_point(tmp_path):
    ids = ["ä", "", "z", "\U0001f600", "\uffff", "a" * 10_000]
    with make(tmp_path / "i", Funnel.parse("16:9"), {}) as index:
        for name in ids:
            index.add([name], np.ones((1, WIDTH), np.float32))

        assert index.search(np.ones((1, WIDTH))).ids == [sorted(ids)]


class TestHowMany:
    def filled(self, tmp_path, text="4:8,16:3"):
        index = make(tmp_path / "i", Funnel.parse(text), {})
        index.add(range(20), rows_of(3, 20))
        return index

    def test_a_smaller_k_cuts_the_answer(self, tmp_path):
        with self.filled(tmp_path) as index:
            whole, cut = index.search(QUERIES), index.search(QUERIES, k=2)

        assert cut.ids == [ids[:2] for ids in whole.ids]
        assert cut.complete == [True] * 5

    def test_a_larger_k_widens_every_stage(self, tmp_path):
        with self.filled(tmp_path) as index:
            hits = index.search(QUERIES, k=11)

        wide = FunnelSearch(rows_of(3, 20), Funnel.parse("4:11,16:11"))
        assert hits.ids == [wide.search(query).rows.tolist() for query in QUERIES]

    def test_more_than_there_is_gives_all_and_says_so(self, tmp_path):
        with self.filled(tmp_path) as index:
            hits = index.search(QUERIES, k=21)

        assert [sorted(ids) for ids in hits.ids] == [list(range(20))] * 5
        assert hits.complete == [False] * 5

    def test_an_empty_index_finds_nothing_and_says_so(self, tmp_path):
        with make(tmp_path / "i") as index:
            hits = index.search(QUERIES)

        assert (hits.ids, hits.complete) == ([[]] * 5, [False] * 5)
        assert (hits.dim, hits.precision) == (WIDTH, Precision.FLOAT32)

    def test_a_margin_probes_as_many_as_are_asked_for(self, tmp_path):
        with self.filled(tmp_path, "4:8,16:3,margin[3;-9.0;1.0/0.0/0.1]") as index:
            assert [len(ids) for ids in index.search(QUERIES, k=12).ids] == [12] * 5

    @pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
    def test_less_than_one_is_refused(self, tmp_path, k):
        with make(tmp_path / "i") as index, pytest.raises(InputError, match="k must be a whole"):
            index.search(QUERIES, k=k)


class TestFilters:
    ROWS = (
        {"year": 1999, "language": "en", "open": True, "price": 1.5},
        {"year": 2000, "language": "de", "open": False},
        {"year": -(2**63), "price": float("inf")},
        {"language": "", "open": True},
        {},
        {"year": 2000, "language": "z\x00\U0001f600", "price": -0.0},
    )

    @pytest.fixture
    def index(self, tmp_path):
        with make(tmp_path / "i", Funnel.parse("4:2,16:2")) as index:
            for start in (0, 3):
                rows = self.ROWS[start : start + 3]
                index.add(range(start, start + 3), rows_of(2, 6)[start : start + 3], columns(rows))
            yield index

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            (("year", "==", 2000), {1, 5}),
            (("year", "!=", 2000), {0, 2}),
            (("year", "<", 2000), {0, 2}),
            (("year", "<=", -(2**63)), {2}),
            (("year", "exists"), {0, 1, 2, 5}),
            (("not", ("year", "exists")), {3, 4}),
            (("not", ("year", ">", 1999)), {0, 2, 3, 4}),
            (("language", "in", ["en", "fr", ""]), {0, 3}),
            (("language", "in", []), set()),
            (("language", ">", "en"), {5}),
            (("language", ">=", "en"), {0, 5}),
            (("language", "<", "dz"), {1, 3}),
            (("language", "<=", "dz"), {1, 3}),
            (("language", "!=", "nowhere"), {0, 1, 3, 5}),
            (("language", "==", "z\x00\U0001f600"), {5}),
            (("open", "==", False), {1}),
            (("open", "!=", False), {0, 3}),
            (("price", "==", 0), {5}),
            (("price", ">", 1), {0, 2}),
            (("and", ("year", "exists"), ("not", ("open", "exists"))), {2, 5}),
            (["or", ["open", "==", True], ["price", "<", 0.5]], {0, 3, 5}),
            (("and", ("year", "==", 1)), set()),
        ],
    )
    def test_rows_that_match_are_found_however_few_a_stage_keeps(self, index, where, expected):
        hits = index.search(QUERIES, k=6, where=where)

        assert [set(ids) for ids in hits.ids] == [expected] * 5
        assert hits.complete == [len(expected) == 6] * 5

    def test_an_updated_field_is_seen_and_the_others_stay(self, index):
        index.update_fields([0, 4], {"year": [None, 7], "language": ["fr", None]})

        assert index.search(QUERIES, k=6, where=("year", "==", 7)).ids == [[4]] * 5
        assert set(index.search(QUERIES[:1], k=6, where=("year", "<", 9999)).ids[0]) == {1, 2, 4, 5}
        assert index.get([0]).fields == {
            "year": [None], "language": ["fr"], "open": [True], "price": [1.5]
        }  # fmt: skip

    def test_the_filter_is_a_step_of_its_own(self, index):
        (steps,) = index.explain(QUERIES[:1], where=("year", "exists"))

        read = [(step.name, step.rows_read, step.bytes_read, step.rows_kept) for step in steps]
        assert read == [("where", 6, 0, 4), ("4:2", 4, 64, 2), ("16:2", 2, 128, 2)]
        assert all(step.microseconds > 0 for step in steps)

    @pytest.mark.parametrize("depth", [100, 2000])
    def test_a_deep_one_is_read_or_refused(self, index, depth):
        where = ("year", "exists")
        for _ in range(depth):
            where = ("not", where)
        if depth == 100:
            assert len(index.search(QUERIES[:1], k=6, where=where).ids[0]) == 4
        else:
            with pytest.raises(InputError, match="expected a filter"):
                index.search(QUERIES, where=where)

    @pytest.mark.parametrize(
        ("where", "wording"),
        [
            ("year > 3", "expected a filter, got 'year > 3'"),
            ((), "expected a filter"),
            (("year",), "expected a filter"),
            (("year", "~", 3), "expected a filter"),
            (("year", "==", 3, 4), "expected a filter"),
            (("and",), "expected a filter"),
            (("not", ("year", "exists"), ("year", "exists")), "expected a filter"),
            (("year", "in", "abc"), "expected a filter"),
            (("year", "==", "2000"), "field 'year': expected int .*, got '2000'"),
            (("year", "==", 2000.0), "expected int"),
            (("year", "==", True), "expected int"),
            (("year", "==", 2**63), "expected int from -2"),
            (("price", "<", float("nan")), "expected float that is a number"),
            (("open", "<", True), "'open' is a bool: compare it with == or !="),
            (("language", "==", "\ud800"), "expected str in Unicode"),
            (("language", "==", None), "expected str"),
        ],
    )
    def test_others_are_refused(self, index, where, wording):
        with pytest.raises(InputError, match=wording):
            index.search(QUERIES, where=where)

    def test_an_unknown_field_is_named_with_the_nearest(self, index):
        with pytest.raises(
            UnknownNameError, match="no field is called 'yaer'; did you mean 'year'"
        ):
            index.search(QUERIES, where=("yaer", "==", 3))


class TestPlansAndFunnels:
    def test_a_plan_is_run_with_its_steps_and_its_threshold(self, tmp_path):
        vectors, funnel = rows_of(4, 60), Funnel.parse("8@int8:30,12@int8:20")
        plan = Plan(
            SPACE,
            funnel,
            scales=steps_for(funnel),
            threshold=Threshold(0.3, (-1.0, 0.2, 1.0), (-1.0, 0.3, 1.0)),
        )
        with Index.create(tmp_path / "i", SPACE, plan) as index:
            index.add(range(60), vectors)
            hits = index.search(QUERIES)

        answers = run(plan, vectors, QUERIES)
        assert hits.ids == [answer.rows.tolist() for answer in answers]
        assert hits.complete == [len(answer.rows) == 20 for answer in answers]
        assert not all(hits.complete)

    def test_another_funnel_may_use_the_codes_and_any_float32_stage(self, tmp_path):
        model = Model(Funnel.parse("12@int8:30,3:20,16:5"))
        with make(tmp_path / "i", fields={}) as index:
            index.add(range(50), rows_of(5, 50))
            model.put(range(50), rows_of(5, 50), {})

            hits = index.search(QUERIES, funnel=model.funnel)
            exact = index.search(QUERIES, funnel=Funnel.parse("16:5"))

        model.compare(hits, model.answers(QUERIES, 5), 5)
        best = FunnelSearch(rows_of(5, 50), Funnel.parse("16:5"))
        assert exact.ids == [best.search(query).rows.tolist() for query in QUERIES]

    @pytest.mark.parametrize(
        ("text", "wording"),
        [
            ("4@int8:9,16:5", "no codes for the stage 4@int8:9, it was made for 8@binary:40"),
            ("17:5", "no codes for the stage 17:5"),
            ("8:9,16:5,exact", "no bounds for an exact stop at 8@float32, 16@float32"),
            ("8[4x2]:9,16:5", "inverted lists"),
        ],
    )
    def test_a_funnel_that_needs_other_codes_is_refused(self, tmp_path, text, wording):
        with make(tmp_path / "i") as index, pytest.raises(UnsupportedError, match=wording):
            index.search(QUERIES, funnel=Funnel.parse(text))

    def test_every_stage_says_what_it_read(self, tmp_path):
        with make(tmp_path / "i") as index:
            index.add(range(100), rows_of(6, 100))
            (steps,) = index.explain(QUERIES[:1])

        read = [(step.name, step.rows_read, step.bytes_read, step.rows_kept) for step in steps]
        assert read == [
            ("8@binary:40", 100, 100, 40), ("12@int8:20", 40, 480, 20), ("16:5", 20, 1280, 5)
        ]  # fmt: skip


@pytest.mark.slow
def test_real_vectors_are_answered_as_in_memory(tmp_path):
    pytest.importorskip("wordllama")
    from matryo.core import Side
    from matryo.encoders import encode_texts, encoder
    from matryo.jobs import demo_data
    from matryo.transforms import fit_scales, truncate

    data, model = demo_data(), encoder("default")
    documents = encode_texts(model, data.documents.texts[:6000], side=Side.DOCUMENT)
    queries = encode_texts(model, data.queries.texts[:60], side=Side.QUERY)
    ids = data.documents.ids[:6000]
    order = sorted(range(6000), key=ids.__getitem__)
    space: Space = model.space

    for text in ("128@binary:200,128@int8:40,256:10", "64:200,256:10", "32:200,256:10,exact"):
        funnel = Funnel.parse(text)
        scales = {128: fit_scales(truncate(documents[:500], 128))}
        reference = FunnelSearch(documents[order], funnel, scales=scales)
        with Index.create(tmp_path / text, space, funnel, scales=scales) as index:
            for start in range(0, 6000, 2500):
                part = slice(start, start + 2500)
                index.add(ids[part], documents[part], space=space)
            hits = index.search(queries, space=space)
        for query, found, scores in zip(queries, hits.ids, hits.scores, strict=True):
            answer = reference.search(query)
            assert found == [ids[order[row]] for row in answer.rows]
            assert scores.tobytes() == answer.scores.tobytes()
