"""What is chosen, when it is recommended, and that noise is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from matryo.adaptation.choose import choose_map
from matryo.adaptation.lesson import Lesson
from matryo.adaptation.trials import LabelsTrial, SearchTrial
from matryo.core import DimError, InputError, Space, TooFewError, UnknownNameError

WIDTH = 32
SPACE = Space("synthetic", WIDTH)


def drawn(n, seed, scale=1.0):
    rows = np.random.default_rng(seed).standard_normal((n, WIDTH)) * scale
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def backwards():
    """Synthetic documents and queries whose last dims say most."""
    scale = 1.15 ** np.arange(WIDTH)
    return drawn(1500, 0, scale), drawn(200, 1, scale)


def choose(documents, queries, **options):
    settings = {"methods": "rotation,reorder", **options}
    return choose_map(
        Lesson(documents), SearchTrial(queries, documents), (4, 8, WIDTH), SPACE, **settings
    )


def test_vectors_without_any_order_are_left_alone():
    choice = choose(drawn(3000, 0), drawn(300, 1))

    assert not choice.recommended
    assert choice.headline.startswith("Leave the vectors alone: ")
    assert choice.map.notes["recommended"] is False


@pytest.mark.parametrize("method", ["rotation", "reorder"])
def test_a_planted_order_is_found_and_shown(method, backwards):
    choice = choose(*backwards, methods=method)

    assert (choice.chosen, choice.best, choice.recommended) == (method,) * 2 + (True,)
    low, high = choice.overall[method]["low"], choice.overall[method]["high"]
    assert 0.05 < low < choice.overall[method]["difference"] < high
    assert choice.headline.startswith(f"{method} (")
    assert "on average over the sizes" in choice.headline


def test_the_figures_are_those_of_the_map_that_is_handed_on(backwards):
    documents, queries = backwards
    choice = choose(documents, queries)
    trial = SearchTrial(queries, documents)

    both = choice.map.query, choice.map.document
    deal = np.random.default_rng(0).permutation(200)[100:]
    values = trial.means(trial.figures(both, (4, 8, WIDTH)), np.sort(deal))

    mine = [row["value"] for row in choice.rows if row["method"] == choice.best]
    np.testing.assert_allclose(mine, values)
    assert mine[-1] == 1
    assert choice.map.dims == (4, 8, WIDTH)
    assert choice.map.expects == SPACE


def test_plain_cutting_wins_where_it_is_best_and_the_next_map_is_still_told(backwards):
    documents, queries = (rows[:, ::-1].copy() for rows in backwards)
    lesson = Lesson(documents, queries=drawn(60, 5))  # of another domain

    choice = choose_map(
        lesson, SearchTrial(queries, documents), (4, 8), SPACE, methods="query-projection"
    )

    assert (choice.chosen, choice.best) == ("cut", "query-projection")
    assert "plain cutting did best. The next was query-projection" in choice.headline
    assert choice.overall["query-projection"]["difference"] < 0


@pytest.mark.slow
def test_noise_is_recommended_no_more_often_than_the_confidence_allows():
    recommended = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows = drawn(200, seed, np.linspace(0.5, 1.5, WIDTH))
        labels = rng.integers(0, 2, 200)  # they say nothing of the rows
        trial = LabelsTrial(rows[:80], labels[:80], rows[80:140], labels[80:140])
        choice = choose_map(
            Lesson(rows[140:]), trial, (4, 8), SPACE, methods="rotation,reorder", seed=seed,
            confidence=0.9,
        )  # fmt: skip
        recommended += choice.recommended

    assert recommended <= binom.ppf(0.999, 40, 0.05)  # half of what 0.9 leaves lies above


def test_one_seed_gives_one_choice(backwards):
    first, again = (choose(*backwards, seed=4) for _ in range(2))

    assert first.rows == again.rows
    assert first.map.makes == again.map.makes


def test_a_size_that_weighs_nothing_counts_for_nothing(backwards):
    only = choose(*backwards, weights=(0, 1))

    values = {(row["method"], row["dim"]): row["value"] for row in only.rows}
    assert only.overall["cut"]["value"] == pytest.approx(values["cut", 8])


def test_further_trials_judge_the_best_map_and_change_nothing(backwards):
    documents, queries = backwards
    other = SearchTrial(queries[:, ::-1].copy(), documents[:, ::-1].copy())

    choice = choose(documents, queries, methods="reorder", elsewhere={"mirror": other})

    assert choice.recommended
    gains = [row for row in choice.elsewhere if row["method"] == "reorder"]
    assert [row["dim"] for row in gains] == [4, 8, WIDTH]
    assert {row["trial"] for row in choice.elsewhere} == {"mirror"}
    assert gains[0]["high"] < 0


class TestMethodsThatFail:
    """Some documents have nothing where the others have most: reordered, they begin with zeros."""

    @pytest.fixture
    def sparse(self):
        documents, queries = drawn(300, 0), drawn(60, 1)
        documents[:30, 4:] = 0
        documents[30:, -8:] *= 9
        return documents, queries

    def test_one_that_was_named_is_an_error(self, sparse):
        with pytest.raises(InputError, match="only zeros"):
            choose(*sparse, methods="reorder,rotation")

    def test_under_auto_it_is_left_out_and_named(self, sparse, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # as if torch was not there

        choice = choose(*sparse, methods="auto")

        assert list(choice.failed) == ["reorder"]
        assert "only zeros" in choice.failed["reorder"]
        assert choice.best == "rotation"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"queries": 39}, TooFewError, "at least 40 held-out items, got 39"),
        ({"dims": (8, 4)}, DimError, "ascend"),
        ({"dims": (WIDTH,)}, InputError, "at least one dim below the full width"),
        ({"weights": (1, 1, 1)}, InputError, "each of the 2 dims below the full"),
        ({"weights": (0, 0)}, InputError, "not all of them 0"),
        ({"methods": "magic"}, UnknownNameError, "no method is called 'magic'"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(options, error, message, backwards):
    documents, queries = backwards
    trial = SearchTrial(queries[: options.pop("queries", 200)], documents)

    with pytest.raises(error, match=message):
        choose_map(
            Lesson(documents), trial, options.pop("dims", (4, 8)), SPACE,
            **{"methods": "rotation", **options},
        )  # fmt: skip
