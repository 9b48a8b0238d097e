"""Adapting vectors: what teaches, what judges, what is said, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from matryo.adaptation import NestedMap
from matryo.core import (
    DimError,
    FormatError,
    InputError,
    NestedVectors,
    Nesting,
    Side,
    Space,
    SpaceMismatchError,
    TooFewError,
    UnknownNameError,
    VectorError,
)
from matryo.jobs.adapting import adapt
from matryo.jobs.lessons import Ask, deal_out
from matryo.jobs.opening import Opening
from matryo.jobs.sources import open_source
from matryo.readers import Vectors
from matryo.report import write_report

SHARED = Path(__file__).parents[3] / "shared" / "data"
WIDTH = 32
FAST = {"methods": "rotation,reorder", "dims": (4, 8)}


def backwards(n, seed):
    """Synthetic vectors whose last numbers say most."""
    rows = np.random.default_rng(seed).standard_normal((n, WIDTH)) * 1.15 ** np.arange(WIDTH)
    return rows.astype(np.float32)


def named(rows, prefix):
    return Vectors([f"{prefix}{i}" for i in range(len(rows))], rows, None, None, prefix)


@pytest.fixture(scope="module")
def documents():
    return backwards(1200, 0)


@pytest.fixture(scope="module")
def asked():
    return named(backwards(160, 1), "q")


def known(source, *, methods="auto", taught=None, **given):
    """What is dealt out, without a fit."""
    opening = Opening("default", {}, None, lambda *_: None, pre_step=None, n_queries=1, seed=0)
    return deal_out(Ask(opening, 10, taught, methods, 0), open_source(source), **given)


class TestQueries:
    def test_half_teaches_and_the_other_half_judges(self, documents, asked):
        adapted = adapt(documents, queries=asked, **FAST)

        parts = adapted.document["split"]
        assert adapted.recommended
        assert (parts["what"], parts["taught"], parts["chose"], parts["judged"]) == (
            "queries", 80, 40, 40,
        )  # fmt: skip
        assert adapted.map.notes["split"] == parts
        assert len(set(adapted.taught)) == 80

    def test_no_query_teaches_and_is_asked(self, documents, asked):
        dealt = known(documents, queries=asked)

        both = np.concatenate([dealt.lesson.queries, dealt.trial.queries])
        assert len(np.unique(both, axis=0)) == 160

    def test_what_taught_can_be_given_and_then_the_rest_judges(self, documents, asked, tmp_path):
        first = adapt(documents, queries=asked, **FAST)
        first.save_taught(tmp_path / "taught.json")

        again = adapt(documents, queries=asked, taught=tmp_path / "taught.json", seed=5, **FAST)
        few = adapt(documents, queries=asked, taught=["q0", "q1"], **FAST)

        assert again.document["split"]["digest"] == first.document["split"]["digest"]
        assert few.document["split"]["judged"] + few.document["split"]["chose"] == 158

    def test_judgments_teach_and_judge(self, documents, asked, tmp_path):
        qrels = tmp_path / "qrels.tsv"
        qrels.write_text("".join(f"q{i}\t{i}\t1\nq{i}\t{i + 9}\t0\n" for i in range(160)))
        dealt = known(documents, queries=asked, qrels=qrels)

        for query, rows in zip(dealt.lesson.queries, dealt.lesson.relevant, strict=True):
            (right,) = dealt.lesson.documents[rows]
            place = int(np.flatnonzero((asked.array == query).all(1))[0])
            assert np.array_equal(right, documents[place])
        assert (dealt.task, dealt.trial.measure) == ("retrieval", "nDCG@10")

    def test_a_sample_of_many_documents_keeps_the_judged_ones(
        self, documents, asked, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("matryo.jobs.lessons._MOST_TAUGHT", 200)
        monkeypatch.setattr("matryo.jobs.lessons._MOST_SEARCHED", 300)
        qrels = tmp_path / "qrels.tsv"
        qrels.write_text("".join(f"q{i}\t{i * 7}\t1\n" for i in range(160)))

        dealt = known(documents, queries=asked, qrels=qrels)

        names, ids, judged = dealt.trial.judged
        assert (len(dealt.lesson.documents), len(dealt.trial.corpus), len(ids)) == (200, 300, 300)
        assert all(set(judged[name]) <= set(ids) for name in names)
        for name, row in zip(ids, dealt.trial.corpus, strict=True):
            assert np.array_equal(row, documents[int(name)])
        for name, rows in zip(dealt.taught, dealt.lesson.relevant, strict=True):
            (right,) = dealt.lesson.documents[rows]
            assert np.array_equal(right, documents[int(name[1:]) * 7])
        assert "A sample of 200 of 1,200 documents taught." in dealt.how
        assert any("A sample of 300 of 1,200 documents was searched" in one for one in dealt.how)


class TestWithoutQueries:
    def test_documents_that_are_asked_and_their_equals_teach_nothing(self, documents):
        twins = np.concatenate([documents, documents[:600]])

        dealt = known(twins)

        lesson = {row.tobytes() for row in dealt.lesson.documents}
        assert len(dealt.trial.queries) == 360
        assert not lesson & {row.tobytes() for row in dealt.trial.queries}

    def test_a_document_is_no_answer_to_itself_in_a_sample_either(self, documents, monkeypatch):
        monkeypatch.setattr("matryo.jobs.lessons._MOST_SEARCHED", 500)

        dealt = known(documents)

        assert len(dealt.trial.corpus) == 500
        assert sum(len(rows) for rows in dealt.trial.exclude) > 50
        for query, rows in zip(dealt.trial.queries, dealt.trial.exclude, strict=True):
            inside = np.flatnonzero((dealt.trial.corpus == query).all(1))
            assert np.array_equal(inside, rows)

    def test_it_is_said_that_only_fidelity_was_judged(self, documents):
        adapted = adapt(documents, **FAST)

        told = " ".join(adapted.document["verdict"]["sentences"])
        assert "Only fidelity was judged" in told
        assert "graded similarity may get worse" in told
        assert adapted.document["data"]["origin"] == "sample"

    def test_a_rotation_alone_learns_from_all_rows(self, documents, monkeypatch):
        monkeypatch.setattr("matryo.jobs.lessons._MOST_TAUGHT", 200)

        adapted = adapt(documents, methods="rotation", dims=(4, 8))
        both = known(documents, methods="rotation,reorder")

        assert adapted.map.document.n_samples_seen_ == 1200 - 240
        assert len(adapted.taught) == 1200 - 240
        assert "The rotation was learned from all documents" in " ".join(adapted.document["how"])
        assert both.lesson.stream is None


class TestLabels:
    @pytest.fixture
    def labelled(self):
        rng = np.random.default_rng(3)
        labels = rng.integers(0, 4, 900)
        rows = rng.standard_normal((900, WIDTH)).astype(np.float32)
        rows[:, -4:] += 3 * np.eye(4, dtype=np.float32)[labels]
        return rows, labels

    def test_half_teaches_a_quarter_votes_a_quarter_is_classified(self, labelled, tmp_path):
        rows, labels = labelled
        path = tmp_path / "data.npz"
        np.savez(path, train=rows[:800], train_labels=labels[:800], test=rows[800:],
                 test_labels=labels[800:])  # fmt: skip

        adapted = adapt(path, **FAST)
        dealt = known(path)

        every = np.concatenate([dealt.lesson.documents, dealt.trial.known, dealt.trial.vectors])
        assert len(np.unique(every, axis=0)) == len(every) == 800
        assert (len(dealt.taught), len(dealt.trial.known), dealt.trial.n_items) == (400, 200, 200)
        assert adapted.recommended
        assert "the test part was left for measuring" in " ".join(adapted.document["how"])

    def test_labels_of_a_file_belong_to_ids(self, labelled, tmp_path):
        rows, labels = labelled
        table = ["id\tlabel", *(f"{i}\tc{labels[i]}" for i in range(899, 9, -1))]
        (tmp_path / "labels.tsv").write_text("\n".join(table) + "\n")

        dealt = known(rows, labels=tmp_path / "labels.tsv")

        for row, label in zip(dealt.trial.vectors, dealt.trial.truth, strict=True):
            assert labels[np.flatnonzero((rows == row).all(1))[0]] == label

    def test_one_label_only_is_refused_by_name(self, documents, tmp_path):
        (tmp_path / "labels.tsv").write_text(
            "id\tlabel\n" + "".join(f"{i}\tall\n" for i in range(1200))
        )

        with pytest.raises(TooFewError, match="at least 2 classes, got only 'all'"):
            adapt(documents, labels=tmp_path / "labels.tsv")


class TestPairs:
    def test_scored_texts_are_dealt_out_by_row(self, words, write_lines):
        rows = [(f"thing{i} colour{i % 7}", f"thing{i + i % 3}", str(i % 3)) for i in range(120)]
        path = write_lines("pairs.tsv", [("sentence1", "sentence2", "score"), *rows])

        adapted = adapt(path, model=words, **FAST)

        assert adapted.document["data"]["task"] == "pairs"
        assert adapted.document["measure"] == "Spearman"
        assert adapted.document["split"]["taught"] == 60
        assert set(adapted.taught) <= {str(i) for i in range(120)}

    def test_a_file_of_ids_and_scores_is_looked_up(self, documents, tmp_path):
        lines = [json.dumps({"id1": i, "id2": i + 100, "score": i % 5}) for i in range(100)]
        (tmp_path / "pairs.jsonl").write_text("\n".join(lines))

        dealt = known(documents, pairs=tmp_path / "pairs.jsonl")

        lesson = {row.tobytes() for row in dealt.lesson.documents}
        assert not lesson & {row.tobytes() for row in dealt.trial.left}
        assert len(lesson) == 1200 - 100
        for left, right, grade in zip(*dealt.lesson.pairs, strict=True):
            place = int(np.flatnonzero((documents == left).all(1))[0])
            assert np.array_equal(documents[place + 100], right)
            assert place % 5 == grade

    def test_scores_that_are_all_alike_are_refused(self, documents, tmp_path):
        (tmp_path / "pairs.csv").write_text("id1,id2,score\n" + "1,2,3\n" * 100)

        with pytest.raises(InputError, match="scores that differ among the 50 pairs"):
            adapt(documents, pairs=tmp_path / "pairs.csv")


class TestDocument:
    def test_texts_are_encoded_and_small_sizes_of_the_model_are_flagged(self, words, beir):
        folder = beir()
        lines = [f"q{i}\td{i % 40}\t1" for i in range(120)]
        (folder / "queries.jsonl").write_text(
            "\n".join(
                json.dumps({"_id": f"q{i}", "text": f"thing{i % 40} {i}"}) for i in range(120)
            )
        )
        (folder / "qrels.tsv").write_text("\n".join(lines))

        document = adapt(folder, model=words, **FAST).document

        flags = {row["dim"]: row["trained"] for row in document["results"]}
        assert flags == {4: False, 8: True, WIDTH: True}
        assert "not trained below 8 numbers: plain cuts to 4" in " ".join(
            document["verdict"]["sentences"]
        )
        assert document["fingerprint"] == words.space.fingerprint

    def test_it_is_plain_json_and_the_report_shows_it(self, documents, asked, tmp_path):
        document = adapt(
            documents, queries=asked, second=[documents[:, ::-1].copy()], **FAST
        ).document

        write_report(json.loads(json.dumps(document, allow_nan=False)), tmp_path / "report.html")

        page = (tmp_path / "report.html").read_text("utf-8")
        assert document["verdict"]["headline"].replace("+", "&#43;") in page.replace("+", "&#43;")
        assert document["split"]["digest"] in page
        assert "worse at 4, 8" in page
        assert "no difference shown" in page or "plain cutting" in page

    def test_a_report_of_a_method_that_is_not_there_is_refused(self, documents, tmp_path):
        document = adapt(documents, **FAST).document
        document["results"][2]["method"] = "magic"

        with pytest.raises(FormatError, match=r"results\[2\].method: expected one of cut, random"):
            write_report(document, tmp_path / "report.html")

    def test_the_map_can_be_saved_and_applied(self, documents, asked, tmp_path):
        adapted = adapt(documents, queries=asked, **FAST)

        adapted.map.save(tmp_path / "map")

        loaded = NestedMap.load(tmp_path / "map")
        assert loaded.dims == (4, 8, WIDTH)
        assert loaded.notes["method"] == adapted.document["map"]["method"]
        assert loaded.makes.fingerprint == adapted.document["map"]["makes"]
        np.testing.assert_array_equal(
            loaded.apply(documents[:5], "document"), adapted.map.apply(documents[:5], "document")
        )

    def test_one_seed_gives_one_document(self, documents, asked):
        first, again = (adapt(documents, queries=asked, seed=3, **FAST).document for _ in range(2))

        for document in (first, again):
            del document["created"], document["seconds"]
            for method in document["methods"]:
                del method["seconds"]
        assert first == again


class TestOddDocuments:
    def told(self, documents, queries=None):
        document = adapt(documents, queries=queries, **FAST).document
        return " ".join(document["verdict"]["sentences"])

    def test_fewer_rows_than_numbers_still_give_a_rotation_and_the_number_needed(self, asked):
        told = self.told(backwards(20, 4), asked)

        assert "Only 20 documents taught, fewer than the 32 numbers" in told
        assert "completed by directions that none of them has" in told
        assert "At least 32 are needed" in told

    def test_directions_that_nothing_fills_are_counted(self, documents, asked):
        flat = documents @ np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))[0]
        flat = (flat[:, :7] @ flat[:7]).astype(np.float32)

        assert "The documents fill 7 directions of 32" in self.told(flat, asked)

    def test_dims_that_are_constant_or_repeat_are_counted(self, documents, asked):
        odd = documents.copy()
        odd[:, 20:23], odd[:, 5], odd[:, 6] = 1.0, odd[:, 31], odd[:, 31]

        told = self.told(odd, asked)

        assert "3 of 32 dims are the same in every document" in told
        assert "2 of 32 dims repeat another dim" in told

    def test_documents_that_are_all_equal_are_refused(self, asked):
        flat = np.ones((300, WIDTH), np.float32)

        with pytest.raises(InputError, match="300 documents that teach are all equal"):
            adapt(flat, queries=asked)
        with pytest.raises(InputError, match="nothing is left to teach"):
            adapt(flat)


def test_a_full_disk_leaves_no_half_folder(on_a_full_disk, tmp_path):
    code = """
import sys
import numpy as np
from matryo.jobs.adapting import adapt
rows = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32)
adapt(rows, methods="rotation", dims=(8, 16)).map.save(sys.argv[1])
"""

    done = on_a_full_disk(code, tmp_path / "map", limit=8_000)

    assert done.returncode != 0
    assert "what was there before is unchanged" in done.stderr
    assert not list(tmp_path.iterdir())


class TestRefusals:
    @pytest.mark.parametrize(
        ("rows", "queries", "needed", "message"),
        [
            (199, None, 200, "without queries at least 200 documents are needed"),
            (300, 79, 80, "half of the queries teach and half judge: at least 80"),
        ],
    )
    def test_too_little_says_how_much_is_needed(self, rows, queries, needed, message):
        queries = queries and named(backwards(queries, 2), "q")

        with pytest.raises(TooFewError, match=message) as error:
            adapt(backwards(rows, 1), queries=queries)

        assert error.value.needed == needed

    @pytest.mark.parametrize("drawn", [True, False])
    @pytest.mark.parametrize("value", [np.nan, np.inf, 0])
    def test_bad_rows_are_named(self, value, drawn, documents, asked):
        rows = documents.copy()
        rows[7] = value

        with pytest.raises(VectorError, match=r"documents: 1 row ha.*'d7'"):
            adapt(named(rows, "d"), queries=None if drawn else asked)

    def test_bad_queries_are_named(self, documents, asked):
        rows = asked.array.copy()
        rows[3] = np.nan

        with pytest.raises(VectorError, match=r"queries: 1 row has .*: 'q3'"):
            adapt(documents, queries=named(rows, "q"))

    def test_queries_of_another_width(self, documents):
        with pytest.raises(DimError, match="one width, got 16 numbers and 32"):
            adapt(documents, queries=backwards(100, 2)[:, :16])

    def test_queries_of_another_space(self, documents, tmp_path):
        for name, model, side in (("d", "apples", Side.DOCUMENT), ("q", "pears", Side.QUERY)):
            NestedVectors.from_array(
                documents[:300], range(300), space=Space(model, WIDTH), side=side,
                nesting=Nesting((WIDTH,)),
            ).save(tmp_path / name)  # fmt: skip

        with pytest.raises(SpaceMismatchError, match=r"apples.*pears.*scores mean nothing"):
            adapt(tmp_path / "d", queries=tmp_path / "q")

    def test_a_space_that_is_not_scored_by_cosine(self, documents, tmp_path):
        NestedVectors.from_array(
            documents[:300], range(300), space=Space("apples", WIDTH, metric="dot"),
            side=Side.DOCUMENT, nesting=Nesting((WIDTH,)),
        ).save(tmp_path / "d")  # fmt: skip

        with pytest.raises(InputError, match=r"judged by the cosine, .*apples.* scored by dot"):
            adapt(tmp_path / "d")

    def test_judgments_of_unknown_ids_are_named(self, documents, asked, tmp_path):
        (tmp_path / "qrels.tsv").write_text("q0\tnowhere\t1\n")

        with pytest.raises(InputError, match="1 documents that are not there: 'nowhere'"):
            adapt(documents, queries=asked, qrels=tmp_path / "qrels.tsv")

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"taught": ["q0", "x9"]}, InputError, "taught: expected ids of queries .*'x9'"),
            ({"taught": "no.json"}, InputError, "no.json: expected a file of ids"),
            ({"taught": [f"q{i}" for i in range(130)]}, TooFewError, "at least 40 queries .* 30"),
            ({"methods": "rotaton"}, UnknownNameError, "did you mean 'rotation'"),
            ({"methods": "linear-labels"}, InputError, "needs labels, got none"),
            ({"dims": "64"}, DimError, "between 1 and 32"),
            ({"labels": "labels.tsv"}, InputError, "one of them, got queries and labels"),
            ({"second": [backwards(300, 3)[:, :8]]}, DimError, "vectors: .* 32 .* got 8"),
        ],
    )
    def test_options_that_do_not_fit(self, options, error, message, documents, asked):
        with pytest.raises(error, match=message):
            adapt(documents, queries=asked, **{"methods": "rotation", **options})

    def test_a_whole_data_set_brings_its_own(self, words, beir, asked):
        with pytest.raises(InputError, match="beir is a whole data set, so no other queries"):
            adapt(beir(), model=words, queries=asked)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not there")
def test_on_real_data_what_is_written_is_what_was_judged():
    pytest.importorskip("wordllama", reason="the default model needs wordllama")
    adapted = adapt(
        SHARED / "cranfield", methods="rotation,query-projection", dims=(16, 64),
        second=[SHARED / "stsb"],
    )  # fmt: skip

    document = adapted.document
    rows = {(row["method"], row["dim"]): row["value"] for row in document["results"]}
    assert (
        document["split"]["taught"] + document["split"]["chose"] + (document["split"]["judged"])
        == document["data"]["queries"]
    )
    assert rows["rotation", 256] == pytest.approx(rows["cut", 256], abs=1e-9)
    assert rows["rotation", 16] > rows["random", 16] + 0.05
    assert {row["measure"] for row in document["elsewhere"]} == {"Spearman"}
