"""Examples to train on: what they are, and what is wrong with them."""

from __future__ import annotations

import json

import pytest

from matryo.core import FormatError, InputError, TooFewError
from matryo.readers import read_training_data

PAIRS = [{"anchor": f"a{i}", "positive": f"p{i}"} for i in range(4)]
SCORED = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "score": i / 4} for i in range(4)]
LABELLED = [{"text": f"t{i}", "label": "xy"[i % 2]} for i in range(4)]


@pytest.fixture
def read(tmp_path):
    def write_and_read(records, name="made.jsonl"):
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        (tmp_path / name).write_text("\n".join(lines) + "\n", "utf-8")
        return read_training_data(tmp_path / name)

    return write_and_read


class TestKinds:
    @pytest.mark.parametrize(
        ("records", "kind", "columns"),
        [
            (PAIRS, "pairs", ["anchor", "positive"]),
            (
                [r | {"negative": "n"} for r in PAIRS],
                "triplets",
                ["anchor", "positive", "negative"],
            ),
            (SCORED, "scored", ["sentence1", "sentence2"]),
            (LABELLED, "labelled", ["text"]),
            ([r | {"id": 7, "note": None} for r in PAIRS], "pairs", ["anchor", "positive"]),
        ],
    )
    def test_columns_say_what_the_examples_are(self, records, kind, columns, read):
        data = read(records)

        assert (data.kind, list(data.columns), len(data)) == (kind, columns, 4)
        for name in columns:
            assert data.columns[name] == [record[name] for record in records]

    def test_csv_tsv_and_parquet_give_what_jsonl_gives(self, read, tmp_path):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        wanted = read(SCORED)
        pq.write_table(pa.Table.from_pylist(SCORED), tmp_path / "made.parquet")
        rows = [list(SCORED[0]), *([str(value) for value in r.values()] for r in SCORED)]
        tables = [
            read([separator.join(row) for row in rows], f"made{suffix}")
            for separator, suffix in ((",", ".csv"), ("\t", ".tsv"))
        ]

        for data in (read_training_data(tmp_path / "made.parquet"), *tables):
            assert data.digest() == wanted.digest()

    def test_labels_may_be_numbers(self, read):
        assert read([r | {"label": i} for i, r in enumerate(LABELLED)]).marks == list("0123")

    def test_some_of_them_keep_their_places(self, read):
        some = read(SCORED).take([2, 0])

        assert some.columns == {"sentence1": ["a2", "a0"], "sentence2": ["b2", "b0"]}
        assert some.marks == [0.5, 0.0]
        assert some.where[0].endswith("made.jsonl, line 3")


class TestRefusals:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"anchor": "", "positive": "p"}, "line 5: expected a text in field 'anchor'.*empty"),
            ({"anchor": "a", "positive": "  "}, "line 5: expected a text in field 'positive'"),
            ({"anchor": "a", "positive": 7}, "line 5: expected a text .* 'positive', got int"),
            ({"anchor": "a", "positive": None}, "field 'positive', got NoneType"),
        ],
    )
    def test_a_text_that_is_none_is_named_with_its_line(self, row, message, read):
        with pytest.raises(FormatError, match=message):
            read([*PAIRS, row])

    def test_a_field_that_is_missing_in_one_row_is_named(self, read):
        with pytest.raises(InputError, match="line 5: expected a field 'positive'"):
            read([*PAIRS, {"anchor": "a"}])

    @pytest.mark.parametrize("score", ["much", None, "NaN", float("nan"), 1e39, True, ""])
    def test_a_score_that_is_no_finite_number_is_refused(self, score, read):
        with pytest.raises(FormatError, match="line 5: expected a finite number in field 'score'"):
            read([*SCORED, {"sentence1": "a", "sentence2": "b", "score": score}])

    @pytest.mark.parametrize("label", ["", " ", None, 0.5, True])
    def test_a_label_that_is_none_is_refused(self, label, read):
        with pytest.raises(FormatError, match="line 5: expected a label"):
            read([*LABELLED, {"text": "t", "label": label}])

    @pytest.mark.parametrize(
        ("records", "message"),
        [
            ([{"a": "x"}], r"columns of one kind of examples, got 'a', which are of none\n.*known"),
            ([PAIRS[0] | LABELLED[0]], "which are of pairs and labelled"),
            ([], "got"),
        ],
    )
    def test_columns_of_no_kind_or_of_two_are_refused(self, records, message, read):
        with pytest.raises((InputError, FormatError), match=message):
            read(records)

    def test_examples_that_teach_nothing_are_refused(self, read):
        with pytest.raises(InputError, match="all 4 examples have the same positive, 'p'"):
            read([r | {"positive": "p"} for r in PAIRS])
        with pytest.raises(InputError, match="scores that differ, got 1 for all 4 pairs"):
            read([r | {"score": 1} for r in SCORED])
        with pytest.raises(InputError, match="at least 2 classes, got only 'x'"):
            read([r | {"label": "x"} for r in LABELLED])
        with pytest.raises(TooFewError, match="at least 2 examples, got 1"):
            read(PAIRS[:1])
