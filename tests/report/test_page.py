"""The page as text: what it says, what it never says, and that nothing in it can break out."""

from __future__ import annotations

import re

import pytest
from tests.report.pages import HOSTILE, Elements, charts_of

from matryo.core import FormatError, InputError
from matryo.report import write_report


def test_the_verdict_the_origin_and_every_section_are_on_the_page(results, written):
    words = " ".join(Elements(written(results)).words)

    assert results["verdict"]["headline"] in words
    for text in (
        *results["verdict"]["sentences"],
        *results["how"],
        "synthetic data",
        "needs n of about 900",
        "Compared at the same size",
        "Your threshold, carried over",
        "64@int8:100,768:10",
        "documents without text",
        results["fingerprint"],
        "0.1.0",
    ):
        assert text in words


@pytest.mark.parametrize("origin", ["real", "sample", "synthetic"])
def test_the_origin_stands_on_the_page_and_in_every_chart(results, written, origin):
    results["data"]["origin"] = origin

    page = written(results)

    assert f'class="badge {origin}">{origin} data' in page
    notes = [
        [note["text"] for note in chart["layout"]["annotations"]]
        for charts in charts_of(page).values()
        for chart in charts
    ]
    assert len(notes) == 4
    assert all(f"{origin} data" in texts for texts in notes)


def test_hostile_names_stay_text(results, written):
    plain = [tag for tag, _ in Elements(written(results)).tags]
    results["data"]["name"] = HOSTILE
    results["data"]["left_out"][0] = {"what": HOSTILE, "count": 1, "ids": [HOSTILE]}
    results["verdict"]["headline"] = HOSTILE
    results["how"] = [HOSTILE]
    for part in ("measures", "results", "comparisons"):
        for row in results[part]:
            key = "name" if part == "measures" else "measure"
            if row[key] == "nDCG@10":
                row[key] = HOSTILE
    results["funnel"]["queries"][0]["id"] = HOSTILE
    results["funnel"]["queries"][0]["full"]["ids"][0] = HOSTILE
    results["seconds"] = {HOSTILE: 1.0}

    page = written(results)

    found = Elements(page)
    assert HOSTILE not in page
    assert not any("onerror" in attributes for _, attributes in found.tags)
    assert {tag for tag, _ in found.tags} == set(plain)
    assert [tag for tag, _ in found.tags].count("script") == plain.count("script")
    assert HOSTILE in " ".join(found.words)


def test_nothing_is_loaded_from_anywhere(results, written):
    page = written(results)

    assert "http://" not in page
    assert "https://" not in page
    sources = [
        attributes.get("src") or attributes.get("href")
        for tag, attributes in Elements(page).tags
        if tag in ("script", "img", "link", "iframe", "source", "use", "object")
    ]
    assert set(sources) <= {None, "data:,"}
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(" not in page


def test_optional_parts_may_be_missing(results, written):
    required = ("format", "kind", "data", "settings", "verdict", "measures", "results")
    small = {name: results[name] for name in required}
    small["data"] = {"name": "mine", "task": "fidelity", "origin": "real"}
    small["verdict"] = {"headline": "cannot tell yet"}

    page = written(small)

    assert "cannot tell yet" in page
    for absent in ("Compared at", "What happens to the scores", "threshold, carried", "Left out"):
        assert absent not in page
    assert list(charts_of(page)) == ["quality"]


def test_a_document_without_figures_still_makes_a_page(results, written):
    results["results"] = []

    page = written(results)

    assert results["verdict"]["headline"] in page


def test_texts_are_shown_only_where_the_document_has_them(results, written):
    without = written(results)
    results["funnel"]["queries"][0]["text"] = "lift of a slender body"
    results["funnel"]["documents"] = {"90": "a study of lift"}

    page = written(results)

    assert "lift" not in without
    assert "lift of a slender body" in page
    assert page.count("a study of lift") == 1


def test_all_sizes_of_all_measures_are_in_the_table(results, written):
    page = written(results)

    bodies = page.split("<tbody data-measure=")[1:]
    rows = [body.split("</tbody>")[0].count("<tr") - 1 for body in bodies]
    assert rows == [30, 30, 30]
    assert page.count("untrained") >= 3


def test_the_primary_measure_comes_first_wherever_it_is_listed(results, written):
    for measure in results["measures"]:
        measure["primary"] = measure["name"] == "R@100"

    page = written(results)

    first = re.search(r'value="0" checked><span>(\S+) ', page)
    assert first.group(1) == "R@100"
    assert charts_of(page)["quality"][0]["layout"]["yaxis"]["title"]["text"].startswith("R@100")


def test_an_existing_file_is_kept_where_overwriting_is_not_allowed(results, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("mine", "utf-8")

    with pytest.raises(InputError, match="exists already"):
        write_report(results, path, overwrite=False)

    assert path.read_text("utf-8") == "mine"


def test_two_reports_of_one_document_are_equal(results, written):
    assert written(results) == written(results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d.update(kind="map"),
            r"\$\.kind: expected 'measure' or 'plan' or 'adapt' or 'train', got 'map'",
        ),
        (lambda d: d.update(format=2), r"\$\.format: expected 1, got 2"),
        (lambda d: d["data"].pop("origin"), r"\$\.data\.origin: expected a value, got None"),
        (
            lambda d: d["results"][3].update(value=float("nan")),
            r"\$\.results\[3\]\.value: expected a finite number, got nan",
        ),
        (
            lambda d: d["results"][0].update(verdict="fine"),
            r"\$\.results\[0\]\.verdict: expected one of keeps, .*, got 'fine'",
        ),
        (
            lambda d: d["results"][0].update(measure="MAP"),
            r"\$\.results\[0\]\.measure: expected a name listed in .*, got 'MAP'",
        ),
        (lambda d: d.update(results={}), r"\$\.results: expected a list"),
        (
            lambda d: d["settings"].update(dims=[64, -1]),
            r"\$\.settings\.dims\[1\]: expected a whole",
        ),
        (
            lambda d: d["results"][2].update(bytes_per_vector=0),
            r"\$\.results\[2\]\.bytes_per_vector: expected a whole number of at least 1, got 0",
        ),
        (lambda d: d.update(measures=[]), r"\$\.measures: expected at least one measure"),
        (
            lambda d: d.update(seconds={"encode": "fast"}),
            r"\$\.seconds\['encode'\]: expected a fin",
        ),
    ],
)
def test_a_document_that_does_not_fit_is_refused_by_the_field(results, tmp_path, change, message):
    change(results)

    with pytest.raises(FormatError, match=message) as refusal:
        write_report(results, tmp_path / "report.html")

    assert str(refusal.value).startswith(refusal.value.field)
    assert not (tmp_path / "report.html").exists()
