"""Evaluators of every size: the figures of sentence-transformers' own, from one encoding."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from tests.training import st_models

from matryo.core import DimError, InputError, TooFewError, UnknownNameError, VectorError

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("sentence_transformers")

from matryo.training.evaluator import NestedPairsEvaluator, NestedSearchEvaluator  # noqa: E402

DIMS = [8, 16, 48]
FIRST, OTHER = st_models.texts(120, 1), st_models.texts(120, 2)
SECOND = st_models.alike(FIRST[:60], 3) + OTHER[60:]
SCORES = np.r_[np.linspace(0.5, 1, 60), np.linspace(0, 0.5, 60)]
QUERIES = {f"q{i}": text for i, text in enumerate(st_models.alike(FIRST[:40], 4))}
CORPUS = {f"d{i}": text for i, text in enumerate(FIRST)}
QRELS = {f"q{i}": {f"d{i}", f"d{i + 1}"} for i in range(40)}


@pytest.fixture
def model():
    return st_models.static_model()


def pairs(**options):
    return NestedPairsEvaluator(FIRST, SECOND, SCORES, DIMS, name="made", **options)


def search(**options):
    return NestedSearchEvaluator(QUERIES, CORPUS, QRELS, DIMS, **options)


class TestFigures:
    def test_correlations_are_those_of_an_evaluator_for_each_size(self, model):
        from sentence_transformers.sentence_transformer.evaluation import (
            EmbeddingSimilarityEvaluator,
        )

        made = pairs()(model)

        for dim in DIMS:
            theirs = EmbeddingSimilarityEvaluator(
                FIRST, SECOND, SCORES, main_similarity="cosine", truncate_dim=dim
            )(model)
            assert made[f"made_spearman_{dim}"] == pytest.approx(
                theirs["spearman_cosine"], abs=1e-4
            )

    def test_rankings_are_those_of_an_evaluator_for_each_size(self, model):
        from sentence_transformers.sentence_transformer.evaluation import (
            InformationRetrievalEvaluator,
        )

        made = search()(model)

        for dim in DIMS:
            theirs = InformationRetrievalEvaluator(
                QUERIES, CORPUS, QRELS, truncate_dim=dim, main_score_function="cosine"
            )(model)
            assert made[f"nDCG@10_{dim}"] == pytest.approx(theirs["cosine_ndcg@10"], abs=1e-6)

    @pytest.mark.parametrize("make", [pairs, search])
    def test_every_text_is_encoded_once(self, model, make):
        seen = []
        model[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]["offsets"])))

        made = make()
        made(model)

        assert sum(seen) == (len(FIRST) + len(SECOND) if make is pairs else 40 + len(CORPUS))

    def test_a_model_that_is_told_to_cut_is_measured_whole_and_left_so(self, model):
        wanted = pairs()(model)
        model.truncate_dim = 16

        made = pairs()(model)

        assert made == wanted
        assert model.truncate_dim == 16

    def test_the_mean_over_sizes_chooses(self, model):
        evaluator = pairs()
        for _ in range(2):
            made = evaluator(model)
            mean = np.mean([made[f"made_spearman_{dim}"] for dim in DIMS])
            assert evaluator.primary_metric == "made_spearman_mean"
            assert made[evaluator.primary_metric] == pytest.approx(mean)


class TestAgainstTheBase:
    @pytest.mark.parametrize("make", [pairs, search])
    def test_the_first_model_is_what_later_ones_are_compared_with(self, model, make):
        evaluator = make()
        first = evaluator(model)
        again = evaluator(model)

        assert not any("of_base" in name for name in first)
        for row in evaluator.rows:
            assert row["of_base"] == 1.0
            assert row["of_base_low"] <= 1.0 <= row["of_base_high"]
        assert len(again) == 4 * len(DIMS) + 1

    @pytest.mark.parametrize("make", [pairs, search])
    def test_a_base_is_measured_before_it_is_trained_further(self, model, make):
        evaluator = make(base=model)
        with torch.no_grad():
            model[0].embedding.weight[:150] = model[0].embedding.weight[0]

        evaluator(model)

        full = evaluator.rows[-1]
        assert full["of_base"] <= full["of_base_high"] < 1.0

    def test_the_interval_is_of_the_same_texts(self, model):
        # a change that helps every pair a little is seen, though both figures are uncertain
        evaluator = pairs(base=model)
        better = st_models.static_model()
        with torch.no_grad():
            better[0].embedding.weight[:, 8:] *= 1.02

        evaluator(better)

        row = evaluator.rows[-1]
        assert row["of_base_high"] - row["of_base_low"] < 0.03


class TestTable:
    def test_it_grows_with_every_call(self, model, tmp_path):
        evaluator = search(name="made")
        evaluator(model, str(tmp_path / "eval"), epoch=0.5, steps=10)
        evaluator(model, str(tmp_path / "eval"), epoch=1.0, steps=20)

        text = (tmp_path / "eval" / "made_nDCG@10_by_size.csv").read_text("utf-8")
        rows = list(csv.DictReader(text.splitlines()))

        assert [row["dim"] for row in rows] == ["8", "16", "48"] * 2
        assert [row["steps"] for row in rows] == ["10"] * 3 + ["20"] * 3
        assert rows[0]["of_base"] == ""
        assert float(rows[-1]["nDCG@10"]) == evaluator.rows[-1]["nDCG@10"]


class TestRefusals:
    def test_few_pairs(self):
        with pytest.raises(TooFewError, match="at least 64 pairs are needed, got 3") as error:
            NestedPairsEvaluator(FIRST[:3], SECOND[:3], SCORES[:3], DIMS)
        assert error.value.needed == 64

    def test_texts_and_scores_of_different_numbers(self):
        with pytest.raises(InputError, match="got 120, 119 and 120"):
            NestedPairsEvaluator(FIRST, SECOND[1:], SCORES, DIMS)

    def test_scores_that_are_all_equal(self):
        with pytest.raises(InputError, match="finite numbers that differ"):
            NestedPairsEvaluator(FIRST, SECOND, np.ones(120), DIMS)

    def test_a_query_that_nothing_answers(self):
        with pytest.raises(InputError, match="1 of 40 without: 'q7'") as error:
            NestedSearchEvaluator(QUERIES, CORPUS, QRELS | {"q7": {"elsewhere": 1}}, DIMS)
        assert error.value.ids == ["q7"]

    def test_a_corpus_smaller_than_the_measure(self):
        with pytest.raises(InputError, match="nDCG@10 looks at 10 documents, got a corpus of 1"):
            NestedSearchEvaluator({"q0": "w1"}, {"d0": "w1"}, {"q0": {"d0": 1}}, DIMS)

    def test_a_measure_that_there_is_not(self):
        with pytest.raises(UnknownNameError, match="nDGC@10"):
            search(measure="nDGC@10")

    @pytest.mark.parametrize(
        "make",
        [
            lambda dims: NestedPairsEvaluator(FIRST, SECOND, SCORES, dims),
            lambda dims: NestedSearchEvaluator(QUERIES, CORPUS, QRELS, dims),
        ],
    )
    def test_a_dim_beyond_the_width_of_the_model(self, model, make):
        with pytest.raises(DimError, match="48"):
            make([8, 64])(model)

    @pytest.mark.parametrize("make", [pairs, search])
    def test_a_model_that_has_gone_wrong(self, model, make):
        with torch.no_grad():
            model[0].embedding.weight[5] = torch.nan
        with pytest.raises(VectorError, match="NaN"):
            make()(model)

    def test_a_model_that_has_collapsed(self, model):
        with torch.no_grad():
            model[0].embedding.weight[:] = model[0].embedding.weight[0]
        with pytest.raises(VectorError, match="scores all 120 pairs alike at 8 numbers"):
            pairs()(model)
