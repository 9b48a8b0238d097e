"""The main job on every kind of data it takes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import matryo
from matryo.core import (
    DimError,
    InputError,
    NestedVectors,
    Nesting,
    Side,
    Space,
    SpaceMismatchError,
    TooFewError,
    UnknownNameError,
    UnsupportedError,
)
from matryo.encoders import EncodingCache, Function
from matryo.readers import RetrievalData, Texts, Vectors
from matryo.report import write_report

SPACE = Space("words", 32, revision="1")


def cuts(results, measure=None, precision="float32"):
    """Rows of plain cutting by dim."""
    return {
        row["dim"]: row
        for row in results["results"]
        if (row["method"], row["precision"]) == ("cut", precision)
        and row["measure"] == (measure or row["measure"])
    }


def without_time(results):
    return {name: part for name, part in results.items() if name not in ("created", "seconds")}


class TestVectors:
    def test_figures_are_those_of_a_full_sort(self, corpus, queries):
        results = matryo.measure(corpus, queries=queries, dims="8,32", k=5, baselines=False)

        def ranks(dim):
            left, right = queries[:, :dim].astype(float), corpus[:, :dim].astype(float)
            right = right / np.linalg.norm(right, axis=1, keepdims=True)
            return np.argsort(-(left @ right.T), axis=1)[:, :5]

        shared = [len(set(a) & set(b)) / 5 for a, b in zip(ranks(8), ranks(32), strict=True)]
        assert cuts(results)[8]["value"] == pytest.approx(np.mean(shared), abs=1e-9)
        assert cuts(results)[32]["verdict"] == "reference"

    def test_a_mapped_file_gives_what_memory_gives(self, corpus, queries, tmp_path):
        np.save(tmp_path / "corpus.npy", corpus)
        np.save(tmp_path / "queries.npy", queries)

        mapped = matryo.measure(tmp_path / "corpus.npy", queries=tmp_path / "queries.npy")

        assert mapped["results"] == matryo.measure(corpus, queries=queries)["results"]
        assert mapped["data"]["name"] == "corpus"
        assert (mapped["data"]["documents"], mapped["data"]["queries"]) == (400, 60)

    def test_queries_may_stand_in_the_same_file(self, corpus, queries, tmp_path):
        np.savez(tmp_path / "both.npz", docs=corpus, asked=queries)
        file = tmp_path / "both.npz"

        results = matryo.measure(file, queries=file, array="docs", query_array="asked")

        assert results["results"] == matryo.measure(corpus, queries=queries)["results"]

    def test_folders_bring_their_space(self, corpus, queries, tmp_path):
        for name, rows, side in (
            ("docs", corpus, Side.DOCUMENT), ("asked", queries, Side.QUERY)
        ):  # fmt: skip
            nested = NestedVectors.from_array(
                rows, range(len(rows)), space=SPACE, side=side, nesting=Nesting((8, 16, 32))
            )
            nested.save(tmp_path / f"{name}.matryo")

        results = matryo.measure(tmp_path / "docs.matryo", queries=tmp_path / "asked.matryo")

        assert results["fingerprint"] == SPACE.fingerprint
        assert results["space"] == SPACE.to_dict()
        assert results["results"] == matryo.measure(corpus, queries=queries)["results"]

    def test_judgments_turn_fidelity_into_retrieval(self, corpus, queries, write_lines):
        asked = corpus[:60] + 0.1 * queries
        qrels = write_lines("qrels.tsv", [(str(i), str(i), "1") for i in range(50)])

        results = matryo.measure(corpus, queries=asked, qrels=qrels)

        assert results["data"]["task"] == "retrieval"
        assert results["data"]["queries"] == 50
        assert cuts(results, "RR@10")[32]["value"] == 1.0
        left_out = results["data"]["left_out"]
        assert [(item["count"], item["ids"][0]) for item in left_out] == [(10, "50")]

    @pytest.mark.parametrize("metric", ["dot", "l2"])
    def test_other_metrics_have_no_binary_codes_but_work_without(self, metric, corpus, queries):
        results = matryo.measure(corpus, queries=queries, metric=metric, precisions="float32,int8")

        assert results["settings"]["metric"] == metric
        assert (
            "binary"
            not in matryo.measure(corpus, queries=queries, metric=metric)["settings"]["precisions"]
        )
        with pytest.raises(UnsupportedError, match=f"need the metric cosine, got {metric}"):
            matryo.measure(corpus, queries=queries, metric=metric, precisions="float32,binary")

    def test_the_full_width_alone_can_be_measured(self, corpus, queries):
        results = matryo.measure(corpus, queries=queries, dims="32", precisions="float32")

        assert "Only the full width was measured" in results["verdict"]["headline"]


class TestDrawnQueries:
    def test_they_give_figures_and_no_promise(self, corpus):
        results = matryo.measure(corpus, n_queries=80)

        assert results["data"]["task"] == "fidelity"
        assert results["data"]["origin"] == "sample"
        assert results["data"]["queries"] == 80
        assert {row["verdict"] for row in results["results"]} == {"figure only", "reference"}
        assert "no promise" in results["verdict"]["headline"]
        assert results["verdict"]["recommended"] is None

    def test_they_find_neither_themselves_nor_equal_rows(self, corpus):
        twice = np.concatenate([corpus, corpus])

        results = matryo.measure(twice, n_queries=200, k=1, dims="8,32", precisions="float32")

        # every row has a twin, and some queries may find their neighbour under two names
        assert "(200 such rows were passed over)" in results["how"][-1]
        alone = matryo.measure(corpus, n_queries=200, k=1, dims="8,32", precisions="float32")
        assert cuts(results)[8]["value"] == pytest.approx(cuts(alone)[8]["value"], abs=0.15)
        assert cuts(results)[8]["value"] < 0.9  # a query that found its twin would make this 1

    def test_a_seed_draws_the_same_and_another_seed_others(self, corpus):
        first, again, other = (matryo.measure(corpus, seed=seed) for seed in (3, 3, 4))

        assert without_time(first) == without_time(again)
        assert first["results"] != other["results"]

    def test_too_few_documents_to_draw_from_are_refused(self, corpus):
        with pytest.raises(TooFewError, match=r"at least 100 documents .* got 99") as error:
            matryo.measure(corpus[:99])

        assert error.value.needed == 100


class TestSpaces:
    def test_two_spaces_that_meet_are_refused_with_both_names(self, corpus, queries, tmp_path):
        for name, rows, side in (
            ("apples", corpus, Side.DOCUMENT), ("pears", queries, Side.QUERY)
        ):  # fmt: skip
            NestedVectors.from_array(rows, range(len(rows)), space=Space(name, 32), side=side).save(
                tmp_path / f"{name}.matryo"
            )

        with pytest.raises(SpaceMismatchError, match=r"apples @ 32.*pears @ 32.*mean nothing"):
            matryo.measure(tmp_path / "apples.matryo", queries=tmp_path / "pears.matryo")

    def test_texts_of_another_model_are_refused(self, corpus, words, tmp_path, write_lines):
        asked = write_lines("asked.txt", [[f"thing{i}"] for i in range(20)])
        NestedVectors.from_array(
            corpus, range(400), space=Space("apples", 32), side=Side.DOCUMENT
        ).save(tmp_path / "apples.matryo")

        with pytest.raises(SpaceMismatchError, match=r"apples @ 32.*words @ 32"):
            matryo.measure(tmp_path / "apples.matryo", queries=asked, model=words)

    def test_texts_need_documents_of_a_known_model(self, corpus, write_lines):
        asked = write_lines("asked.txt", [[f"thing{i}"] for i in range(20)])

        with pytest.raises(InputError, match="nothing says which model made the document vectors"):
            matryo.measure(corpus, queries=asked)

    def test_queries_as_texts_meet_stored_documents_of_their_model(self, tmp_path, write_lines):
        pytest.importorskip("wordllama")
        lines = [[f"thing{i} colour{i % 5}"] for i in range(150)]
        documents, asked = write_lines("docs.txt", lines), write_lines("asked.txt", lines[:30])
        matryo.encode(documents, tmp_path / "docs.matryo")

        results = matryo.measure(tmp_path / "docs.matryo", queries=asked)

        assert results["data"]["queries"] == 30
        assert results["trained_dims"] == [64, 128, 256]


class TestTrainedDims:
    def test_strict_refuses_untrained_dims_and_names_the_trained(self, beir, words):
        with pytest.raises(DimError, match="words was trained at dims 8, 16, 32, got 12") as error:
            matryo.measure(beir(), model=words, dims="8,12", strict=True)

        assert error.value.dims == [12]
        assert error.value.trained == [8, 16, 32]

    def test_without_strict_they_are_marked(self, beir, words):
        results = matryo.measure(beir(), model=words, dims="8,12")

        assert results["trained_dims"] == [8, 16, 32]
        assert {d: row["trained"] for d, row in cuts(results).items()} == {
            8: True, 12: False, 32: True
        }  # fmt: skip

    def test_nobody_knows_them_for_bare_vectors(self, corpus, queries):
        results = matryo.measure(corpus, queries=queries, strict=True)

        assert results["trained_dims"] is None
        assert {row["trained"] for row in results["results"]} == {None}


class TestDataSets:
    @pytest.mark.parametrize("qrels", ["qrels.tsv", "qrels/test.tsv"])
    def test_a_beir_folder_in_both_forms(self, qrels, beir, words):
        results = matryo.measure(beir(qrels), model=words)

        assert results["data"]["task"] == "retrieval"
        assert results["data"]["origin"] == "real"
        assert (results["data"]["documents"], results["data"]["queries"]) == (120, 40)
        names = [measure["name"] for measure in results["measures"]]
        assert sorted(names) == ["R@10", "RR@10", "nDCG@10", "neighbor_recall@10"]
        assert [m["name"] for m in results["measures"] if m["primary"]] == ["nDCG@10"]
        assert cuts(results, "nDCG@10")[32]["value"] > cuts(results, "nDCG@10")[16]["value"] > 0.2

    def test_a_split_is_chosen_by_name(self, beir, words):
        folder = beir("qrels/dev.tsv")

        results = matryo.measure(folder, model=words, split="dev")

        assert results["data"]["queries"] == 40
        with pytest.raises(InputError, match=r"qrels/test.tsv or qrels.tsv.*\n.*there: dev"):
            matryo.measure(folder, model=words)

    def test_a_split_of_pairs_is_chosen_too(self, write_lines, words, tmp_path):
        head = ("sentence1", "sentence2", "score")
        for split, n in (("test", 100), ("dev", 80)):
            rows = [(f"a{i} b{i}", f"a{i} c{i % 9}", str(i % 5)) for i in range(n)]
            write_lines(f"sts/{split}.tsv", [head, *rows])

        assert matryo.measure(tmp_path / "sts", model=words)["data"]["queries"] == 100
        assert matryo.measure(tmp_path / "sts", model=words, split="dev")["data"]["queries"] == 80

    def test_a_split_of_what_has_none_is_refused(self, corpus):
        with pytest.raises(InputError, match="benchmark folder to choose the split 'dev' in"):
            matryo.measure(corpus, split="dev")

    @pytest.mark.parametrize("option", ["queries", "qrels"])
    def test_a_data_set_takes_no_other_queries_or_judgments(self, option, beir, words, queries):
        with pytest.raises(InputError, match="beir is a whole data set"):
            matryo.measure(beir(), model=words, **{option: queries})

    def test_equal_scores_rank_as_trec_eval_ranks_them_for_every_measure(self):
        # all documents but those of one group are alike: which comes first is up to the ids
        documents = Texts([f"d{i:03}" for i in range(128)], ["same words"] * 128, [], "documents")
        asked = Texts([f"q{i}" for i in range(16)], [f"same thing{i}" for i in range(16)], [], "q")
        qrels = {f"q{i}": {"d127" if i % 2 else "d000": 1} for i in range(16)}
        data = RetrievalData("ties", documents, asked, qrels, [], 0)
        from_words = Function(
            lambda texts: np.array([[len(t), 1, 2, 3] for t in texts], float), Space("length", 4)
        )

        results = matryo.measure(
            data, model=from_words, dims="2,4", precisions="float32",
            relevance=["RR@10", "P@1", "nDCG@10"], baselines=False,
        )  # fmt: skip

        # trec_eval puts the larger id first: d127 leads, d000 is not among ten
        for measure in ("RR@10", "P@1", "nDCG@10"):
            assert cuts(results, measure)[4]["value"] == 0.5

    def test_pairs(self, write_lines, words, tmp_path):
        rows = [
            (f"a{i} b{i} c{i}", f"a{i} b{i} c{i}"[: 1 + 3 * (i % 4)] + " x", str(i % 4))
            for i in range(120)
        ]
        write_lines("sts/test.tsv", [("sentence1", "sentence2", "score"), *rows, ("", "a", "1")])

        results = matryo.measure(tmp_path / "sts", model=words)

        assert results["data"]["task"] == "pairs"
        assert results["data"]["left_out"] == [
            {"what": "pairs with an empty text", "count": 1, "ids": [120]}
        ]
        assert cuts(results, "spearman")[32]["value"] > 0.7

    def test_judgments_that_are_all_equal_have_no_correlation(self, write_lines, words, tmp_path):
        rows = [(f"a{i}", f"b{i}", "3") for i in range(70)]
        write_lines("sts/test.tsv", [("sentence1", "sentence2", "score"), *rows])

        with pytest.raises(InputError, match="judgments that differ, got 3 for all 70 pairs"):
            matryo.measure(tmp_path / "sts", model=words)

    def test_labelled_texts(self, write_lines, words, tmp_path):
        head = ("text", "label")
        for split, n in (("train", 120), ("test", 60)):
            rows = [(f"label{i % 3} {split}{i}", f"L{i % 3}") for i in range(n)]
            write_lines(f"bank/{split}.tsv", [head, *rows])

        results = matryo.measure(tmp_path / "bank", model=words)

        assert results["data"]["task"] == "labelled"
        assert cuts(results, "accuracy_knn")[32]["value"] > 0.9
        assert cuts(results, "accuracy_probe")[32]["value"] > 0.9

    def test_labelled_vectors(self, tmp_path):
        rng = np.random.default_rng(5)
        middles = 3 * rng.standard_normal((4, 32))
        train_labels, test_labels = np.arange(160) % 4, np.arange(80) % 4
        train = (middles[train_labels] + rng.standard_normal((160, 32))).astype(np.float32)
        test = (middles[test_labels] + rng.standard_normal((80, 32))).astype(np.float32)
        np.savez(
            tmp_path / "l.npz",
            train=train, train_labels=train_labels, test=test, test_labels=test_labels,
        )  # fmt: skip

        results = matryo.measure(tmp_path / "l.npz")

        assert results["data"]["task"] == "labelled"
        assert cuts(results, "accuracy_knn")[32]["value"] > 0.95

    def test_texts_are_encoded_and_queried_among_themselves(self, write_lines, words):
        rows = [{"id": i, "text": f"thing{i} colour{i % 7}"} for i in range(150)]
        file = write_lines("texts.jsonl", [*rows, {"id": 150, "text": " "}])

        results = matryo.measure(file, model=words)

        assert results["data"]["documents"] == 150
        assert results["data"]["left_out"][0]["ids"] == [150]
        assert results["data"]["origin"] == "sample"


class TestDocument:
    @pytest.fixture
    def results(self, beir, words):
        return matryo.measure(beir(), model=words, threshold=0.5, precisions="float32,int8,binary")

    def test_it_is_json_without_nan_and_makes_a_report(self, results, tmp_path):
        text = json.dumps(results, allow_nan=False)

        write_report(json.loads(text), tmp_path / "report.html")

        assert "<html" in (tmp_path / "report.html").read_text("utf-8")[:500]

    def test_every_row_says_all_that_is_promised(self, results):
        wanted = {
            "dim", "precision", "method", "measure", "value", "low", "high", "kept", "kept_low",
            "kept_high", "n", "origin", "verdict", "needed", "bytes_per_vector", "trained",
        }  # fmt: skip

        assert all(set(row) == wanted for row in results["results"])
        assert all(row["low"] <= row["value"] <= row["high"] for row in results["results"])

    def test_a_threshold_is_carried_to_every_size(self, results):
        rows = results["threshold"]["rows"]

        assert results["threshold"]["full"] == 0.5
        levels = {(row["dim"], row["precision"]) for row in rows}
        assert levels == {
            (dim, p) for dim in (16, 32) for p in ("float32", "int8", "binary")
        } - {(32, "float32")}  # fmt: skip
        assert all(0 <= row["flipped"] < 0.5 for row in rows)

    def test_a_threshold_is_refused_where_nothing_is_searched(self, write_lines, words, tmp_path):
        rows = [(f"a{i} b", f"a{i} c{i % 9}", str(i % 5)) for i in range(90)]
        write_lines("sts/test.tsv", [("sentence1", "sentence2", "score"), *rows])

        with pytest.raises(InputError, match="for search data only, got pairs data"):
            matryo.measure(tmp_path / "sts", model=words, threshold=0.5)

    def test_made_up_data_are_labelled_so(self, corpus, queries):
        results = matryo.measure(corpus, queries=queries, synthetic=True)

        assert results["data"]["origin"] == "synthetic"
        assert {row["origin"] for row in results["results"]} == {"synthetic"}
        assert any("synthetic" in sentence for sentence in results["verdict"]["sentences"])

    def test_two_runs_with_one_seed_differ_in_nothing_but_time(self, beir, words):
        folder = beir()

        first, second = (matryo.measure(folder, model=words, seed=5) for _ in range(2))

        assert without_time(first) == without_time(second)

    def test_nothing_measured_depends_on_how_often_progress_is_told(self, beir, words):
        told = []

        quiet = matryo.measure(beir(), model=words)
        loud = matryo.measure(
            beir(), model=words, progress=lambda stage, done, _: told.append((stage, done))
        )

        assert loud["results"] == quiet["results"]
        sums = {stage: sum(d for s, d in told if s == stage) for stage, _ in told}
        assert sums == {
            "encoding document texts": 120, "encoding query texts": 40, "measuring": 120
        }  # fmt: skip


def test_a_second_run_encodes_nothing(beir, words, counting, tmp_path):
    folder = beir()

    with EncodingCache(tmp_path / "cache.sqlite") as cache:
        first = matryo.measure(folder, model=words, cache=cache)
        encoded = counting.count
        second = matryo.measure(folder, model=words, cache=cache, dims="4,8", precisions="float32")

    assert encoded == 160
    assert counting.count == encoded
    assert cuts(first, "nDCG@10")[32]["value"] == cuts(second, "nDCG@10")[32]["value"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, InputError, "k must be a whole number of at least 1, got 0"),
        ({"n_queries": -1}, InputError, "n_queries must be a whole number of at least 1, got -1"),
        ({"k": 401}, InputError, "number of documents to find, 400, got 401"),
        ({"metric": "cosin"}, InputError, "metric must be one of cosine, dot, l2, got 'cosin'"),
        ({"precisions": "int9"}, UnknownNameError, "no precision is called 'int9'"),
        ({"precisions": []}, InputError, "at least one precision, got none"),
        ({"relevance": ["nDCG"]}, UnknownNameError, "'nDCG'; did you mean 'nDCG@10'"),
        ({"floor": 1.5}, InputError, "floor must be above 0 and at most 1, .* got 1.5"),
        ({"confidence": 1.0}, InputError, "confidence must be between 0 and 1, got 1.0"),
        ({"pre_step": "norm"}, UnknownNameError, "no pre-step is called 'norm'"),
        ({"threshold": 3.0}, InputError, r"threshold must be between -.* got 3.0"),
    ],
)
def test_options_out_of_their_bounds_are_refused(options, error, message, corpus, queries):
    with pytest.raises(error, match=message):
        matryo.measure(corpus, queries=queries, **options)


def test_bad_rows_keep_the_names_their_file_gave_them(corpus, queries):
    broken = corpus.copy()
    broken[7, 3] = np.nan
    # whether or not the row is among those that int8 steps and rotations are fitted on
    for seed in range(4):
        for asked in (queries, None):
            with pytest.raises(InputError, match=re.escape("documents: 1 row has NaN")) as error:
                matryo.measure(
                    Vectors([f"d{i}" for i in range(400)], broken, None, None, "v"),
                    queries=asked,
                    seed=seed,
                )

            assert error.value.ids == ["d7"]


class TestWhatIsNotIgnored:
    def test_a_folder_of_documents_is_no_folder_of_queries(self, tmp_path):
        (tmp_path / "texts.txt").write_text("\n".join(f"text number {i}" for i in range(120)))
        matryo.encode(tmp_path / "texts.txt", tmp_path / "docs.matryo")

        with pytest.raises(InputError, match=r"the queries must be query vectors, got a folder of"):
            matryo.measure(tmp_path / "docs.matryo", queries=tmp_path / "docs.matryo")

    def test_a_pre_step_is_refused_where_the_encoder_knows_its_own(self, tmp_path):
        (tmp_path / "texts.txt").write_text("\n".join(f"text number {i}" for i in range(120)))

        with pytest.raises(InputError, match=r"the encoder knows its own pre-step.*'layer_norm'"):
            matryo.measure(tmp_path / "texts.txt", pre_step="layer_norm")

    def test_made_up_data_with_drawn_queries_get_no_promise(self, corpus):
        results = matryo.measure(corpus, synthetic=True)

        verdicts = {row["verdict"] for row in results["results"]}
        assert results["data"]["origin"] == "synthetic"
        assert verdicts == {"figure only", "reference"}
