import json

import pytest

from matryo.core import FormatError, InputError
from matryo.readers import read_texts


def save(path, text):
    path.write_bytes(text.encode("utf-8"))
    return path


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_title_and_text_of_json_lines_are_joined(tmp_path):
    path = save(
        tmp_path / "corpus.jsonl",
        lines(
            {"_id": "a", "title": "Wings", "text": "They lift."},
            {"_id": "b", "title": "", "text": "No title."},
            {"_id": "c", "title": None, "text": "None at all."},
            {"_id": "d", "title": "Only title", "text": ""},
        ),
    )

    found = read_texts(path)

    assert found.ids == ["a", "b", "c", "d"]
    assert found.texts == ["Wings They lift.", "No title.", "None at all.", "Only title"]
    assert (found.left_out, found.name, len(found)) == ([], "corpus", 4)


def test_empty_texts_are_put_aside_by_id(tmp_path):
    path = save(
        tmp_path / "t.jsonl",
        lines({"id": 1, "text": "one"}, {"id": 2, "text": " \n"}, {"id": 3, "text": None}),
    )

    found = read_texts(path)

    assert (found.ids, found.texts, found.left_out) == ([1], ["one"], [2, 3])


def test_a_named_field_stands_alone_and_ids_can_be_named(tmp_path):
    path = save(tmp_path / "t.jsonl", lines({"key": "x", "title": "no", "body": "yes"}))

    found = read_texts(path, column="body", id_column="key")

    assert (found.ids, found.texts) == (["x"], ["yes"])


def test_csv_may_quote_commas_and_newlines_and_hold_long_fields(tmp_path):
    long = "word " * 60_000
    path = save(tmp_path / "t.csv", f'id,body\r\n7,"a, ""b""\nc"\r\n\r\n8,{long}\r\n')

    found = read_texts(path, column="body")

    assert found.ids == ["7", "8"]
    assert found.texts == ['a, "b"\nc', long.strip()]


def test_tsv_is_never_quoted(tmp_path):
    path = save(tmp_path / "t.tsv", 'text\tlabel\n"said\tx\nhe" said\ty\n\n')

    assert read_texts(path).texts == ['"said', 'he" said']


def test_lines_of_plain_text_are_numbered_as_vectors_without_ids_are(tmp_path):
    path = save(tmp_path / "t.txt", "\ufeffone\r\n\r\nthree\u2028still three\nfour")

    found = read_texts(path)

    assert found.ids == [0, 2, 3]
    assert found.texts == ["one", "three\u2028still three", "four"]
    assert found.left_out == [1]


def test_parquet_reads_only_the_columns_it_needs(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table(
            {"id": [4, 5], "title": ["t", None], "text": ["u", "v"], "other": [{"x": 1}, None]}
        ),
        tmp_path / "t.parquet",
    )

    found = read_texts(tmp_path / "t.parquet")

    assert (found.ids, found.texts) == ([4, 5], ["t u", "v"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.jsonl",
            '{"text": "a"}\n{"text": \n',
            r"t\.jsonl, line 2: expected a JSON object, got: ",
        ),
        ("t.jsonl", '["a"]\n', r"t\.jsonl, line 1: expected a JSON object, got list"),
        ("t.jsonl", "[" * 100_000, r"t\.jsonl, line 1: expected a JSON object, got: "),
        ("t.jsonl", '{"text": 5}\n', r"line 1: expected text in field 'text', got int"),
        ("t.csv", 'id,text\n1,"a\n', r"t\.csv, line 2: expected CSV, got: unexpected end"),
        ("t.csv", "id,text\n1,a,b\n", r"line 2: expected 2 fields \(id, text\), got 3"),
        ("t.tsv", "id\ttext\n1\n", r"line 2: expected 2 fields \(id, text\), got 1"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(name, content, message, tmp_path):
    path = save(tmp_path / name, content)

    with pytest.raises(FormatError, match=message):
        read_texts(path)


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.tsv", "t.txt"])
def test_a_line_that_is_not_utf8_is_named_with_the_byte(name, tmp_path):
    (tmp_path / name).write_bytes(b'{"text": "a"}\n' if name == "t.jsonl" else b"text\n")
    with (tmp_path / name).open("ab") as stream:
        stream.write(b"caf\xe9\n")

    with pytest.raises(FormatError, match=r"line 2: expected UTF-8, got byte 0xe9 at place 3"):
        read_texts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jsonl", '{"_id": "1", "body": "a"}\n'),
        ("t.csv", "_id,body\n1,a\n"),
        ("t.tsv", "_id\tbody\n1\ta\n"),
    ],
)
def test_a_missing_field_names_those_that_are_there(name, content, tmp_path):
    path = save(tmp_path / name, content)

    with pytest.raises(InputError, match=r"expected a field 'text', got '_id', 'body'"):
        read_texts(path)
    with pytest.raises(InputError, match=r"expected a field 'key', got '_id', 'body'"):
        read_texts(path, column="body", id_column="key")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1, "text": ""}\n{"id": 2, "text": " "}\n', "not empty, got 2 empty ones"),
        ("\n\n", "not empty, got no text at all"),
    ],
)
def test_a_file_without_any_text_is_refused(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_texts(save(tmp_path / "t.jsonl", content))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"_id": "a", "text": "y"}, r"t\.jsonl: ids must not repeat, .*: 'a'"),
        ({"text": "y"}, r"expected an id in every record, got none in 1 of 2, .* record 1"),
        ({"_id": 1.5, "text": "y"}, r"ids must be strings or integers, got 1\.5 in row 1"),
    ],
)
def test_bad_ids_are_refused(second, message, tmp_path):
    path = save(tmp_path / "t.jsonl", lines({"_id": "a", "text": "x"}, second))

    with pytest.raises(InputError, match=message):
        read_texts(path)


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"expected one of \.jsonl, \.csv.*\.parquet, got \.docx"):
        read_texts(save(tmp_path / "t.docx", "x"))
