import json
from pathlib import Path

import numpy as np
import pytest

from matryo.core import FormatError, InputError, VectorError
from matryo.readers import (
    LabelledData,
    LabelledVectors,
    PairsData,
    RetrievalData,
    open_dataset,
    read_qrels,
)

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
HEADER = "query-id\tcorpus-id\tscore\n"


def real(name, **options):
    if not (SHARED / name).is_dir():
        pytest.skip(f"the data set {name} is not on this machine")
    return open_dataset(SHARED / name, **options)


def beir(folder, documents, queries, qrels, qrels_name="qrels.tsv"):
    folder.mkdir(exist_ok=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        records = ({"_id": key, "text": text} for key, text in texts)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / qrels_name).parent.mkdir(exist_ok=True)
    (folder / qrels_name).write_text(qrels)
    return folder


class TestRealData:
    def test_cranfield_loses_two_empty_documents_one_judgment_and_no_query(self):
        data = real("cranfield")

        assert isinstance(data, RetrievalData)
        assert data.documents.left_out == ["471", "995"]
        assert len(data.documents) == 1400 - 2
        assert len(data.queries) == len(data.qrels) == 225
        assert data.left_out_queries == []
        assert data.left_out_judgments == 1
        scores = [score for answers in data.qrels.values() for score in answers.values()]
        assert len(scores) == 1837 - 1
        assert sum(score > 0 for score in scores) == 1612 - 1

    def test_npl_has_its_published_counts(self):
        data = real("npl")

        assert (data.name, len(data.documents), len(data.queries)) == ("npl", 11429, 93)
        assert sum(s > 0 for answers in data.qrels.values() for s in answers.values()) == 2083
        assert (data.documents.left_out, data.left_out_judgments) == ([], 0)

    def test_pubmedqa_has_one_answer_for_each_question(self):
        data = real("pubmedqa")

        assert (len(data.documents), len(data.queries)) == (1000, 1000)
        assert {len(answers) for answers in data.qrels.values()} == {1}

    @pytest.mark.parametrize(("split", "count"), [(None, 1379), ("dev", 1500), ("train", 5749)])
    def test_stsb_has_its_published_pairs(self, split, count):
        data = real("stsb", split=split)

        assert isinstance(data, PairsData)
        assert len(data.first) == len(data.second) == len(data.scores) == count
        assert (data.scores.min(), data.scores.max(), data.left_out) == (0.0, 5.0, [])

    def test_banking77_has_its_published_labels(self):
        data = real("banking77")

        assert isinstance(data, LabelledData)
        assert (len(data.train), len(data.test)) == (10003, 3080)
        assert len(data.train_labels) == 10003
        assert set(data.train_labels) == set(data.test_labels)
        assert len(set(data.test_labels)) == 77

    def test_movielens_is_no_data_set_that_we_know(self):
        with pytest.raises(
            InputError, match=r"it holds 'README\.md', 'movies\.tsv', 'ratings\.tsv'"
        ):
            real("movielens")


class TestRetrieval:
    def test_what_cannot_be_measured_is_left_out_and_counted(self, tmp_path):
        folder = beir(
            tmp_path / "set",
            [("d1", "one"), ("d2", ""), ("d3", "three")],
            [("q1", "a"), ("q2", "b"), ("q3", "c"), ("q4", ""), ("q5", "e")],
            HEADER + "q1\td1\t2\nq1\td3\t0\nq2\td2\t1\nq3\td1\t0\nq4\td1\t1\n",
        )

        data = open_dataset(folder)

        assert data.name == "set"
        assert data.queries.ids == ["q1"]
        assert data.qrels == {"q1": {"d1": 2, "d3": 0}}
        assert data.left_out_queries == ["q2", "q3", "q5"]
        assert data.queries.left_out == ["q4"]
        assert data.documents.left_out == ["d2"]
        assert data.left_out_judgments == 2

    def test_integer_ids_meet_the_text_of_the_judgments(self, tmp_path):
        folder = beir(tmp_path, [(1, "one"), (2, "two")], [(7, "a")], "7\t2\t1\n")

        data = open_dataset(folder)

        assert data.documents.ids == ["1", "2"]
        assert data.qrels == {"7": {"2": 1}}

    def test_an_integer_and_a_text_that_look_alike_are_a_repeat(self, tmp_path):
        folder = beir(tmp_path, [(1, "one"), ("1", "two")], [(7, "a")], "7\t1\t1\n")

        with pytest.raises(InputError, match=r"corpus\.jsonl: ids must not repeat.*'1'"):
            open_dataset(folder)

    @pytest.mark.parametrize(
        ("qrels", "message"),
        [
            ("q1\td1\t1\nq9\td1\t1\n", r"expected queries of queries\.jsonl, got 1 of 2.*'q9'"),
            (
                "".join(f"q1\tx{n}\t1\n" for n in range(9)),
                r"expected documents of corpus\.jsonl, got 9 of 9 .*: 'x0', .*'x4' and 4 more",
            ),
            ("q1\td1\t0\n", "at least one query with a positive judgment, got none of 1"),
        ],
    )
    def test_judgments_that_do_not_fit_are_refused(self, qrels, message, tmp_path):
        folder = beir(tmp_path, [("d1", "one")], [("q1", "a")], qrels)

        with pytest.raises(InputError, match=message):
            open_dataset(folder)

    def test_a_repeated_document_is_named(self, tmp_path):
        folder = beir(tmp_path, [("d1", "one"), ("d1", "two")], [("q1", "a")], "q1\td1\t1\n")

        with pytest.raises(InputError, match=r"corpus\.jsonl: ids must not repeat.*'d1'"):
            open_dataset(folder)

    def test_the_test_split_is_preferred_and_others_can_be_named(self, tmp_path):
        texts = [("d1", "one"), ("d2", "two"), ("d3", "three")], [("q1", "a")]
        beir(tmp_path, *texts, "q1\td1\t1\n")
        beir(tmp_path, *texts, "q1\td2\t1\n", "qrels/test.tsv")
        beir(tmp_path, *texts, "q1\td3\t1\n", "qrels/dev.tsv")

        assert open_dataset(tmp_path).qrels == {"q1": {"d2": 1}}
        assert open_dataset(tmp_path, split="dev").qrels == {"q1": {"d3": 1}}
        with pytest.raises(InputError, match=r"qrels/train\.tsv, got no .*\n.*there: dev, test"):
            open_dataset(tmp_path, split="train")

    @pytest.mark.parametrize("name", ["queries.jsonl", "qrels.tsv"])
    def test_a_missing_part_is_named(self, name, tmp_path):
        folder = beir(tmp_path, [("d1", "one")], [("q1", "a")], "q1\td1\t1\n")
        (folder / name).unlink()

        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            open_dataset(folder)


class TestQrels:
    @pytest.mark.parametrize(
        "content",
        [
            HEADER + "q1\td 1\t1\nq1\td2\t0\nq2\td1\t2\n",
            "q1\td 1\t1\nq1\td2\t0\nq2\td1\t2.0\n\n",
            "q1\t0\td 1\t1\r\nq1\t0\td2\t0\r\nq2\t0\td1\t2\r\n",
        ],
    )
    def test_headers_and_both_forms_are_understood(self, content, tmp_path):
        (tmp_path / "q.tsv").write_bytes(content.encode())

        assert read_qrels(tmp_path / "q.tsv") == {"q1": {"d 1": 1, "d2": 0}, "q2": {"d1": 2}}

    def test_trec_lines_may_be_parted_by_spaces(self, tmp_path):
        (tmp_path / "q.qrels").write_text("1 0 184  1\n1 0  29 -1\n")

        assert read_qrels(tmp_path / "q.qrels") == {"1": {"184": 1, "29": -1}}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("q1\td1\thigh\n", r"q\.tsv, line 1: expected a number as score, got 'high'"),
            (HEADER + "q1\td1\t0.5\n", r"line 2: expected a whole number as score, got '0\.5'"),
            (HEADER + "q1\td1\tnan\n", r"line 2: expected a number as score, got 'nan'"),
            (HEADER + "q1\td1\n", r"line 2: expected 3 fields .* got 2"),
            ("q1\td1\t1\nq1\t0\td1\t1\n", r"line 2: expected 3 fields .* got 4"),
            (
                "q1\td1\t1\nq1\td1\t2\n",
                r"line 2: expected one score for .*'q1'.*'d1', got 2 after 1",
            ),
            (HEADER, r"q\.tsv: expected at least one judgment, got none"),
        ],
    )
    def test_a_bad_line_is_named(self, content, message, tmp_path):
        (tmp_path / "q.tsv").write_text(content)

        with pytest.raises(FormatError, match=message):
            read_qrels(tmp_path / "q.tsv")


class TestPairs:
    def test_a_file_is_a_data_set_too_and_pairs_with_an_empty_side_are_left_out(self, tmp_path):
        (tmp_path / "p.csv").write_text('score,sentence1,sentence2\n4.5,"a, b",c\n1,,x\n0,d,e\n')

        data = open_dataset(tmp_path / "p.csv")

        assert (data.name, data.first, data.second) == ("p", ["a, b", "d"], ["c", "e"])
        assert (data.scores.tolist(), data.left_out) == ([4.5, 0.0], [1])

    @pytest.mark.parametrize(
        ("rows", "error", "message"),
        [
            (
                "a\tb\thigh\n",
                FormatError,
                r"test\.tsv, line 2: expected a number as score, got 'high'",
            ),
            ("a\t\t1\n", InputError, r"test\.tsv: expected at least one pair of texts, got none"),
        ],
    )
    def test_pairs_that_cannot_be_scored_are_refused(self, rows, error, message, tmp_path):
        (tmp_path / "test.tsv").write_text("sentence1\tsentence2\tscore\n" + rows)

        with pytest.raises(error, match=message):
            open_dataset(tmp_path)


class TestLabelled:
    def test_labels_stay_with_their_texts_when_an_empty_one_is_left_out(self, tmp_path):
        (tmp_path / "train.tsv").write_text("label\ttext\nx\ta\ny\t\nz\tc\n")
        (tmp_path / "test.csv").write_text("text,label\nd,x\n")

        data = open_dataset(tmp_path)

        assert (data.train.texts, data.train_labels, data.train.left_out) == (
            ["a", "c"],
            ["x", "z"],
            [1],
        )
        assert (data.test.texts, data.test_labels) == (["d"], ["x"])

    def test_a_missing_label_or_column_is_named(self, tmp_path):
        (tmp_path / "train.tsv").write_text("text\tlabel\na\t \n")
        (tmp_path / "test.tsv").write_text("text\tlabel\na\tx\n")

        with pytest.raises(FormatError, match=r"train\.tsv, line 2: expected a label, got none"):
            open_dataset(tmp_path)

        (tmp_path / "train.tsv").write_text("text\tintent\na\tx\n")
        with pytest.raises(InputError, match=r"expected a field 'label', got 'text', 'intent'"):
            open_dataset(tmp_path)


class TestLabelledVectors:
    arrays = {  # noqa: RUF012
        "train": np.eye(3, 2) + 1,
        "train_labels": np.array(["a", "b", "a"]),
        "test": np.ones((1, 2)),
        "test_labels": np.array(["b"]),
    }

    def test_a_npz_of_four_arrays_is_a_data_set(self, tmp_path):
        np.savez(tmp_path / "set.npz", **self.arrays)

        data = open_dataset(tmp_path / "set.npz")

        assert isinstance(data, LabelledVectors)
        assert (data.name, data.train.dtype, data.train_labels.tolist()) == (
            "set",
            np.float32,
            ["a", "b", "a"],
        )

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (
                {"test_labels": np.array([1, 2])},
                InputError,
                r"1 integers or strings in test_labels",
            ),
            ({"test_labels": np.array([1.0])}, InputError, r"got shape \(1,\) of float64"),
            ({"test": np.ones((1, 3))}, InputError, r"of one width, got 2 and 3 numbers"),
            ({"test": np.zeros((1, 2))}, VectorError, r"set\.npz, test: 1 row has only zeros: 0"),
            ({"train": np.ones((3, 2), dtype=int)}, VectorError, r"'train': expected float16"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, change, error, message, tmp_path):
        np.savez(tmp_path / "set.npz", **{**self.arrays, **change})

        with pytest.raises(error, match=message):
            open_dataset(tmp_path / "set.npz")

    def test_missing_arrays_are_named(self, tmp_path):
        np.savez(tmp_path / "set.npz", train=np.ones((1, 2)), labels=np.ones(1))

        with pytest.raises(InputError, match=r"train, train_labels, .* got train, labels"):
            open_dataset(tmp_path / "set.npz")


def test_a_folder_of_no_known_kind_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.md").write_text("hello")

    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path)

    message = str(caught.value)
    assert "no known data set: it holds 'notes.md'" in message
    assert all(name in message for name in ("corpus.jsonl", "sentence1", "text, label"))


def test_a_file_of_no_known_kind_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.md").write_text("hello")

    with pytest.raises(InputError, match=r"notes\.md: no known data set\n.*sentence1.*test_labels"):
        open_dataset(tmp_path / "notes.md")


def test_a_file_has_no_splits(tmp_path):
    (tmp_path / "p.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\n")

    with pytest.raises(InputError, match="expected a folder to choose the split 'dev' in"):
        open_dataset(tmp_path / "p.tsv", split="dev")
