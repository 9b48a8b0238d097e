"""Plans run in memory: what they need, what they refuse, and that nothing is lost on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.search import plain

from matryo.core import (
    DimError,
    ExitPolicy,
    Funnel,
    InputError,
    NestedVectors,
    Nesting,
    Plan,
    Side,
    SideSpec,
    Space,
    SpaceMismatchError,
    Threshold,
    UnsupportedError,
    VectorError,
)
from matryo.readers import read_vectors
from matryo.search import FunnelSearch, run
from matryo.transforms import Chain, Rotation, Truncate, fit_scales, truncate

WIDTH = 16
SPACE = Space("m", WIDTH)
MAPPED = replace(SPACE, query=SideSpec(map="ab"), document=SideSpec(map="ab"))


def data(seed=0, n=300, width=WIDTH):
    rng = np.random.default_rng(seed)
    decay = 0.9 ** np.arange(width)
    corpus, queries = (rng.normal(size=(rows, width)) * decay for rows in (n, 7))
    return corpus.astype(np.float32), queries.astype(np.float32)


def plan_of(text, space=SPACE, **fields):
    return Plan(space, Funnel.parse(text), **fields)


def mapped(transform):
    """The space of vectors that went through a transform."""
    side = SideSpec(map=transform.digest)
    return replace(SPACE, query=side, document=side)


def nested(vectors, side, space=SPACE):
    return NestedVectors.from_array(
        vectors, range(len(vectors)), space=space, side=side, nesting=Nesting((4, WIDTH))
    )


def contents(answers):
    """Every byte that answers consist of."""
    return [
        (a.rows.tobytes(), a.scores.tobytes(), a.dim, a.precision, a.bytes_read, a.stages)
        + ((a.full_scores.tobytes(),) if a.full_scores is not None else ())
        for a in answers
    ]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize(
    "text",
    [
        "4@int8:60,16:5",
        "8@float16:60,12@int8:9,16:5",
        "4:60,16:5,exact",
        "4@int8:60,16:5,margin[8;0.5;0.9/0.1/0.02]",
    ],
)
def test_a_plan_saved_loaded_and_run_again_gives_the_same_bytes(metric, text, tmp_path):
    corpus, queries = data()
    normalize = metric == "cosine"
    scales = {dim: fit_scales(truncate(corpus[:100], dim, normalize=normalize)) for dim in (4, 12)}
    plan = plan_of(
        text,
        replace(SPACE, metric=metric),
        scales=scales,
        threshold=Threshold(-1e3, (-1.0, 0.1, 1.0), (-0.7, 0.1 + 0.2, 1 / 3)),
    )
    first = contents(run(plan, corpus, queries))

    plan.save(tmp_path / "plan.json")
    again = contents(run(Plan.load(tmp_path / "plan.json"), corpus, queries))

    assert again == first


def test_it_answers_what_the_funnel_answers_for_each_query():
    corpus, queries = data()

    answers = run(plan_of("4:60,16:5", replace(SPACE, metric="dot")), corpus, queries)

    search = FunnelSearch(corpus, Funnel.parse("4:60,16:5"), metric="dot")
    assert contents(answers) == contents([search.search(query) for query in queries])


def test_int8_codes_are_made_and_scored_with_the_steps_of_the_plan():
    corpus, queries = data()
    steps = plain.steps(corpus, 8) * np.float32(3)
    scores = plain.plain_scores(queries, corpus, 8, "cosine", "int8", steps)

    answers = run(plan_of("8@int8:5", scales={8: steps}), corpus, queries)

    for answer, row in zip(answers, scores, strict=True):
        np.testing.assert_allclose(answer.scores, -np.sort(-row)[:5], rtol=1e-5)


def test_vectors_may_come_as_arrays_folders_or_files(tmp_path):
    corpus, queries = data()
    plan = plan_of("4:60,16:5")
    nested(corpus, Side.DOCUMENT).save(tmp_path / "n")
    np.save(tmp_path / "q.npy", queries)

    from_files = run(plan, read_vectors(tmp_path / "n"), read_vectors(tmp_path / "q.npy"))
    from_memory = run(plan, nested(corpus, Side.DOCUMENT), nested(queries, Side.QUERY))

    arrays = contents(run(plan, corpus, queries))
    assert contents(from_files) == arrays
    assert contents(from_memory) == arrays


class TestTransforms:
    def test_it_is_applied_to_both_sides_before_anything_is_cut(self):
        corpus, queries = data()
        rotation = Rotation().fit(corpus)
        plan = plan_of("4:60,16:5", mapped(rotation), transform=rotation.digest)

        answers = run(plan, corpus, queries, transform=rotation)

        turned = run(plan_of("4:60,16:5"), *map(rotation.transform, (corpus, queries)))
        assert contents(answers) == contents(turned)

    def test_the_spaces_of_vectors_are_those_before_it(self):
        corpus, queries = data()
        rotation = Rotation().fit(corpus)
        plan = plan_of("4:60,16:5", mapped(rotation), transform=rotation.digest)
        sides = nested(corpus, Side.DOCUMENT), nested(queries, Side.QUERY)

        answers = run(plan, *sides, transform=rotation)

        assert contents(answers) == contents(run(plan, corpus, queries, transform=rotation))

    def test_vectors_that_went_through_it_already_are_refused(self):
        corpus, queries = data()
        rotation = Rotation().fit(corpus)
        plan = plan_of("4:60,16:5", mapped(rotation), transform=rotation.digest)
        turned = nested(rotation.transform(corpus), Side.DOCUMENT, mapped(rotation))

        with pytest.raises(SpaceMismatchError, match=r"this plan is for m @ 16, the vectors come"):
            run(plan, turned, queries, transform=rotation)

    def test_vectors_with_a_map_of_their_own_keep_it(self):
        corpus, queries = data()
        rotation = Rotation().fit(corpus)
        plan = plan_of("4:60,16:5", MAPPED, transform=rotation.digest)

        answers = run(plan, nested(corpus, Side.DOCUMENT, MAPPED), queries, transform=rotation)

        assert len(answers) == len(queries)
        with pytest.raises(SpaceMismatchError, match="query map 'ab'"):
            run(plan, nested(corpus, Side.DOCUMENT), queries, transform=rotation)

    def test_it_may_change_the_width(self):
        corpus, queries = data()
        cut = Chain([Rotation(), Truncate(8, normalize=False)]).fit(corpus)
        side = SideSpec(map=cut.digest)
        plan = plan_of("4:60,8:5", Space("m", 8, query=side, document=side), transform=cut.digest)

        answers = run(plan, nested(corpus, Side.DOCUMENT), queries, transform=cut)

        assert {answer.dim for answer in answers} == {8}

    def test_none_where_the_plan_names_one_is_refused(self):
        with pytest.raises(InputError, match="needs the transform with digest ab, got none"):
            run(plan_of("4:60,16:5", MAPPED, transform="ab"), *data())

    def test_another_one_is_refused(self):
        rotation = Rotation().fit(data()[0])
        with pytest.raises(InputError, match=rf"digest ab, got one with digest {rotation.digest}"):
            run(plan_of("4:60,16:5", MAPPED, transform="ab"), *data(), transform=rotation)

    def test_one_that_the_plan_does_not_name_is_refused(self):
        rotation = Rotation().fit(data()[0])
        with pytest.raises(InputError, match="this plan names no transform, got one with digest"):
            run(plan_of("4:60,16:5"), *data(), transform=rotation)


class TestThresholds:
    SCORES, FULL_SCORES = (0.2, 0.5, 0.9), (0.0, 0.6, 1.0)

    @given(limit=st.floats(-0.2, 1.2), seed=st.integers(0, 99))
    def test_rows_below_it_are_left_out_and_full_scores_are_named(self, limit, seed):
        corpus, queries = data(seed)
        threshold = Threshold(limit, self.SCORES, self.FULL_SCORES)

        answers = run(plan_of("4:60,8:20", threshold=threshold), corpus, queries)

        whole = run(plan_of("4:60,8:20"), corpus, queries)
        for answer, every in zip(answers, whole, strict=True):
            expected = [
                0.0 if score <= 0.2
                else 1.0 if score >= 0.9
                else 2.0 * (score - 0.2) if score <= 0.5
                else score + 0.1
                for score in every.scores.tolist()
            ]  # fmt: skip
            # close calls are those of the interpolation
            assert len(answer.rows) in {
                sum(score >= limit + slack for score in expected) for slack in (-1e-9, 1e-9)
            }
            np.testing.assert_array_equal(answer.rows, every.rows[: len(answer.rows)])
            np.testing.assert_allclose(answer.full_scores, expected[: len(answer.rows)], atol=1e-12)
            assert answer.scores.tobytes() == every.scores[: len(answer.rows)].tobytes()

    def test_a_row_on_it_stays(self):
        corpus = np.eye(WIDTH, dtype=np.float32)
        threshold = Threshold(0.7, (0.0, 1.0), (0.1, 0.7))

        (answer,) = run(plan_of("16:5", threshold=threshold), corpus, corpus[:1])

        assert answer.rows.tolist() == [0]
        assert answer.full_scores.tolist() == [0.7]

    def test_without_one_there_are_no_full_scores(self):
        assert run(plan_of("16:5"), *data())[0].full_scores is None


class TestRefusals:
    def test_an_exit_policy(self):
        plan = Plan(SPACE, ExitPolicy((4, 16), (0.9,)))
        with pytest.raises(UnsupportedError, match=r"with a funnel(.|\n)*matryo.cascade.run"):
            run(plan, *data())

    def test_vectors_or_queries_of_another_space(self):
        corpus, queries = data()
        other = Space("other", WIDTH)
        with pytest.raises(SpaceMismatchError, match="for m @ 16, the vectors come from other"):
            run(plan_of("16:5"), nested(corpus, Side.DOCUMENT, other), queries)
        with pytest.raises(SpaceMismatchError, match="for m @ 16, the queries come from other"):
            run(plan_of("16:5"), corpus, nested(queries, Side.QUERY, other))

    def test_int8_steps_of_another_dim(self):
        corpus, queries = data()
        plan = plan_of("8@int8:20,16:5", scales={4: plain.steps(corpus, 4)})
        with pytest.raises(InputError, match="a stage 8@int8:20, but no int8 steps for 8 numbers"):
            run(plan, corpus, queries)

    def test_vectors_or_queries_of_another_width(self):
        corpus, queries = data()
        with pytest.raises(
            DimError, match="vectors: this plan is for vectors of 16 numbers, got 9"
        ):
            run(plan_of("8:5"), corpus[:, :9], queries)
        with pytest.raises(DimError, match="queries: this plan is for vectors of 16 numbers"):
            run(plan_of("8:5"), corpus, queries[:, :9])

    def test_rows_without_a_direction_by_their_ids(self, tmp_path):
        corpus, queries = data()
        corpus[40] = np.nan
        np.save(tmp_path / "c.npy", corpus)
        (tmp_path / "c.ids.json").write_text(
            str([f"doc-{i}" for i in range(300)]).replace("'", '"')
        )
        with pytest.raises(VectorError, match="vectors: 1 row has NaN or infinity: 'doc-40'"):
            run(plan_of("8:5"), read_vectors(tmp_path / "c.npy"), queries)
        with pytest.raises(VectorError, match="queries: 1 row has only zeros: 0"):
            run(plan_of("8:5"), queries, np.zeros((1, WIDTH), np.float32))
