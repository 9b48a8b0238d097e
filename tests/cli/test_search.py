"""`matryo search`, a text in and rows out."""

from __future__ import annotations

import json
import re

import pytest

from matryo.cli import main
from matryo.core import Side
from matryo.encoders import encoder
from matryo.jobs import demo_data
from matryo.stores import Index

ROWS = 2000
ASKED = "a large wild animal of the cat family"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """2,000 entries of the demo data with their texts, and one that looks like markup."""
    pytest.importorskip("wordllama")
    folder = tmp_path_factory.mktemp("search")
    documents = demo_data().documents
    rows = list(zip(documents.ids, documents.texts, strict=True))[:ROWS]
    rows.append(("[bold]odd", "[red]brackets[/red] are no markup"))
    lines = [json.dumps({"id": i, "text": text, "length": len(text)}) for i, text in rows]
    (folder / "texts.jsonl").write_text("\n".join(lines), "utf-8")
    code = main([
        "index", "build", str(folder / "texts.jsonl"), "-o", str(folder / "i"), "--funnel",
        "64@binary:200,256:10", "--field", "text:str", "--field", "length:int", "--no-cache",
    ])  # fmt: skip
    assert code == 0
    return folder / "i"


def run(capsys, *arguments):
    """Run `matryo search …` in this process: exit code, stdout, stderr."""
    capsys.readouterr()
    code = main(["search", *map(str, arguments), "--no-cache"])
    return (code, *capsys.readouterr())


@pytest.mark.parametrize("where", [None, ["and", ["length", ">=", 60], ["length", "<", 90]]])
def test_the_answer_is_that_of_the_index(where, index, capsys):
    options = [] if where is None else ["--where", json.dumps(where)]

    code, out, err = run(capsys, index, ASKED, "-k", 7, "--json", *options)

    found = json.loads(out)
    with Index.open(index, read_only=True) as opened:
        query = encoder("default").encode([ASKED], side=Side.QUERY)
        hits = opened.search(query, k=7, where=where)
        texts = opened.get(hits.ids[0]).fields["text"]
    assert (code, err) == (0, "")
    assert [hit["id"] for hit in found["hits"]] == hits.ids[0]
    assert [hit["score"] for hit in found["hits"]] == [float(s) for s in hits.scores[0]]
    assert [hit["fields"]["text"] for hit in found["hits"]] == texts
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, 8))
    assert (found["rows"], found["complete"], found["steps"]) == (ROWS + 1, True, None)


def test_rank_score_id_and_text_are_shown_for_people(index, capsys):
    code, out, err = run(capsys, index, "brackets that are no markup", "-k", 3)

    first = next(line for line in out.splitlines() if line.split()[:1] == ["1"])
    assert (code, err) == (0, "")
    assert re.match(r" +1 +0\.\d{4} +\[bold\]odd +\[red\]brackets\[/red\] are no markup", first)
    assert "2,001 rows; scores of 256 numbers in float32" in out


def test_explained_stages_say_rows_bytes_and_time(index, capsys):
    _, out, _ = run(capsys, index, ASKED, "-k", 3, "--explain", "--where", '["length", "<", 80]')

    steps = [line.split() for line in out.splitlines()]
    kept = next(row[3] for row in steps if row[:1] == ["where"])
    coded = next(row for row in steps if row[:1] == ["64@binary:200"])
    last = next(row for row in steps if row[:1] == ["256:10"])
    assert coded[1:4] == [kept, f"{int(kept.replace(',', '')) * 8:,}", "200"]
    assert last[1:4] == ["200", f"{200 * 1024:,}", "10"]
    assert all(float(row[4].replace(",", "")) >= 0 for row in (coded, last))


def test_fewer_rows_than_asked_for_are_said(index, capsys):
    _, out, _ = run(capsys, index, ASKED, "--where", '["length", ">", 100000]')

    assert "Fewer than 10 rows match: 0" in out


@pytest.mark.parametrize(
    ("where", "code", "message"),
    [
        ("length >= 60", 2, 'expected JSON as ["year", ">=", 2000]'),
        ('["length", "about", 60]', 1, "expected a filter"),
        ('["size", ">", 60]', 1, "no field is called 'size'"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused(where, code, message, index, capsys):
    got, out, err = run(capsys, index, ASKED, "--where", where)

    assert (got, out) == (code, "")
    assert message in " ".join(err.split())


def test_a_model_of_another_space_is_refused(tmp_path, capsys):
    pytest.importorskip("wordllama")
    (tmp_path / "v.jsonl").write_text(
        "".join(json.dumps({"id": i, "vector": [1.0, i, i * i, 1.0]}) + "\n" for i in range(9))
    )
    main(["index", "build", str(tmp_path / "v.jsonl"), "-o", str(tmp_path / "i"),
          "--funnel", "4:5"])  # fmt: skip

    code, out, err = run(capsys, tmp_path / "i", ASKED, "--model", "default")

    assert (code, out) == (1, "")
    assert "this index holds vectors of an unnamed model @ 4, the query comes from wordl" in err


def test_an_empty_text_is_refused(index, capsys):
    code, _, err = run(capsys, index, " ")

    assert code == 1
    assert "text" in err
