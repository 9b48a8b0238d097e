"""The page of a plan as text: what it promises, what it shows, and what it never says."""

from __future__ import annotations

import json
import re

import pytest
from tests.report.pages import HOSTILE, Elements, charts_of

from matryo.core import FormatError
from matryo.jobs import without_text
from matryo.report import write_report


def words_of(page):
    # the narrow spaces inside figures stay
    return re.sub("[ \n]+", " ", " ".join(Elements(page).words))


def figures_of(page):
    """The tables of the choices: their headings, then their rows."""
    tables = re.findall(r'<table class="figures">(.*?)</table>', page, re.DOTALL)
    return [
        [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]
        for table in tables
    ]


def path_of(page):
    table = page[page.index('id="tested-title"') :].split("</table>")[0]
    return re.findall(r"<code>(.*?)</code>.*?</span>(\w+)</span>", table, re.DOTALL)


def is_whole(row):
    row.update(funnel="256:10", kept=1.0, low=0.98, high=1.0)
    row["cost"].update(rows_read=[20000.0], bytes_read=20000.0 * 1024)


def test_the_verdict_the_promise_and_every_section_are_on_the_page(plan, written):
    words = words_of(written(plan))

    for text in (
        plan["verdict"]["headline"],
        *plan["verdict"]["sentences"],
        *plan["how"],
        "promised with 95\u202f% confidence",
        "On average neighbor_recall@10 is at least 95\u202f% of what the full width reaches.",
        "queries drawn like these",
        "about 3\u202f400 certifying queries",
        "Everything that was considered",
        "What was tested",
        "How the queries were split",
        "synthetic data",
        "query texts that are empty",
        "most RAM 12.0\u202fMB",
        "most p95 latency 20\u202fms",
        plan["fingerprint"],
    ):
        assert text in words


@pytest.mark.parametrize(
    ("measure", "truth"),
    [
        ("neighbor_recall@10", "fidelity to the full width"),
        ("nDCG@10", "relevance as judged"),
    ],
)
def test_the_page_says_which_truth_the_promise_is_about(plan, written, measure, truth):
    plan["promise"]["measure"] = measure

    words = words_of(written(plan))

    assert f"truth {truth}" in words
    assert ("fidelity to" in words) != ("relevance as" in words)


@pytest.mark.parametrize(
    ("promise", "sentence", "outcome"),
    [
        (
            {"groups": ["short", "long"]},
            "On average neighbor_recall@10 is at least 95\u202f% of what the full width reaches, "
            "in each of the groups short and long.",
            "promised with 95\u202f% confidence",
        ),
        (
            {"groups": [f"group {number}" for number in range(40)]},
            "On average neighbor_recall@10 is at least 95\u202f% of what the full width reaches, "
            "in each of 40 groups.",
            "promised with 95\u202f% confidence",
        ),
        (
            {"kind": "share", "floor": 0.8, "query_floor": 0.9, "confidence": 0.99},
            "At least 80\u202f% of all queries reach 90\u202f% of their own full-width "
            "neighbor_recall@10.",
            "promised with 99\u202f% confidence",
        ),
        (
            {"kind": "expected", "confidence": None},
            "The neighbor_recall@10 to be expected of the next query is at least 95\u202f%.",
            "kept in expectation",
        ),
    ],
)
def test_the_promise_is_said_in_plain_words(plan, written, promise, sentence, outcome):
    plan["promise"].update(promise)

    words = words_of(written(plan))

    assert f"What is promised {sentence}" in words
    assert outcome in words
    assert ("confidence none" in words) == (promise.get("kind") == "expected")


def test_modelled_figures_stand_under_modelled_and_measured_ones_under_measured(plan, written):
    del plan["choices"][2]["measured"]
    plan["choices"][2]["cost"]["latency_cold_ms"] = None
    plan["choices"][2]["cost"]["price_per_million"] = 0.1496

    cheap, _, safe = figures_of(written(plan))

    assert cheap == [
        ["", "modelled", "measured"],
        ["latency, median", "2.11\u202fms", "3.25\u202fms"],
        ["latency, p95", "2.74\u202fms", "4.75\u202fms"],
        ["latency, cold", "7.50\u202fms", "–"],
        ["read per query", "742.4\u202fkB", "742.4\u202fkB"],
        ["RAM", "800.0\u202fkB", "–"],
        ["disk", "21.3\u202fMB", "–"],
    ]
    assert {row[2] for row in safe[1:]} == {"–"}
    assert safe[3] == ["latency, cold", "–", "–"]
    assert safe[-1] == ["a million rows a month", "0.15", "–"]


def test_a_choice_shows_what_it_kept_its_interval_and_how_much_less_it_reads(plan, written):
    words = words_of(written(plan))

    assert "98.1\u202f% kept" in words
    assert "96.8 … 98.4\u202f%, measured on 500 reporting queries" in words
    assert "28× fewer bytes read than at full width" in words


def test_a_funnel_is_drawn_narrower_where_fewer_rows_are_left(plan, written):
    page = written(plan)

    corners = re.findall(r"polygon\(([\d.]+)% 0, ([\d.]+)% 0, ([\d.]+)% 100%, ([\d.]+)%", page)
    edges = [(float(b) - float(a), float(c) - float(d)) for a, b, c, d in corners]
    cheap, balanced = edges[:2], edges[2:4]

    assert len(edges) == 6
    assert cheap[0][0] == pytest.approx(100)
    assert cheap[0][0] > cheap[0][1] == pytest.approx(cheap[1][0])
    assert cheap[1][0] > cheap[1][1] == pytest.approx(40)
    assert cheap[1][0] < balanced[1][0]
    assert "256 × binary 20\u202f000 rows → keep 100" in words_of(page)
    assert "256 × float32 100 rows → best 10" in words_of(page)


def test_a_stop_rule_is_named_and_its_numbers_are_not(plan, written):
    stopping = plan["candidates"][3]
    row = plan["choices"][0]
    row["funnel"] = "128@binary:400,256:10,margin[20;2.25;0.7401/0.0752/0.05]"
    row["cost"].update(bytes_read=stopping["bytes_read"], rows_read=[20000.0, 300.0])

    page = written(plan)

    assert "128 × binary 20\u202f000 rows → keep up to 400" in words_of(page)
    assert "256 × float32 300 rows → best 10" in words_of(page)
    assert "128@binary:400,256:10 stopping early" in words_of(page)
    assert "0.7401" not in page


def test_choices_that_coincide_are_shown_once_with_their_names_joined(plan, written):
    plan["choices"][1] = {**plan["choices"][0], "name": "balanced"}

    page = written(plan)

    assert re.findall(r"<h3>(.*?)</h3>", page) == ["cheap and balanced", "safe"]
    assert "Choices that coincide are shown once." in page
    (label, _) = [note["text"] for note in notes_of(page) if "ax" in note]
    assert label == "<b>cheap<br>balanced</b>"


def test_every_choice_is_explained_in_its_five_lines(plan, written):
    words = words_of(written(plan))

    for row in plan["choices"]:
        first, *rest = row["explanation"]
        assert first.replace(f"{row['name'].capitalize()}: s", "S") in words
        assert all(line in words for line in rest)


def test_what_was_tested_is_a_table_in_the_order_of_the_tests(plan, written):
    page = written(plan)

    assert path_of(page) == [
        ("256:10", "certified"),
        ("256@binary:400,<wbr>256:10", "certified"),
        ("256@binary:200,<wbr>256:10", "certified"),
        ("256@binary:100,<wbr>256:10", "certified"),
        ("256@binary:50,<wbr>256:10", "failed"),
        ("128@binary:100,<wbr>256:10", "untested"),
    ]
    words = words_of(page)
    assert "256:10 100.0\u202f% not needed" in words
    assert "256@binary:50, 256:10 96.0\u202f% 0.210" in words
    assert "256@binary:100, 256:10 cheap 98.0\u202f% 0.004" in words


def test_an_expected_promise_has_no_column_of_p_values(plan, written):
    assert "p-value" in words_of(written(plan)).split("What was tested")[1]
    plan["promise"].update(kind="expected", confidence=None)

    page = written(plan)

    assert "<th scope=" in page
    assert ">p-value<" not in page


def test_the_split_says_what_each_part_was_for(plan, written):
    words = words_of(written(plan))

    assert "order 500 queries put all candidates in order" in words
    assert "certify 1\u202f000 queries tested those" in words
    assert "report 500 queries gave the figures" in words


def test_the_machine_is_folded_away_with_its_rates(plan, written):
    page = written(plan)

    folded = words_of(page[page.index("<details>") : page.index("</details>")])
    for text in ("Made Processor", "2026-11-24", "64\u202f000 ns", "53 µs", "int8", "7.25"):
        assert text in folded


def test_queries_drawn_from_the_corpus_promise_nothing(plan, written):
    for row in plan["choices"]:
        row["plan"]["promise"] = None

    words = words_of(written(plan))

    assert "figures, no promise" in words
    assert "What was asked for" in words
    assert "What is promised rests on" in words
    assert "nothing, since nothing is promised" in words
    assert "promised with" not in words
    assert "certifying queries Here" not in words


def test_where_nothing_smaller_is_certified_the_full_width_stands_alone(plan, written):
    plan["needed"] = None
    for row in plan["choices"]:
        is_whole(row)

    page = written(plan)

    assert "stay at the full width" in words_of(page)
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["cheap, balanced and safe"]
    assert "Nothing smaller was certified" in page
    assert "keeps all that it is measured by" in page
    # nothing is lost, so there is no interval around it
    assert 'class="kept"' not in page
    assert "reporting queries</p>" not in page


def test_what_cannot_be_told_says_how_many_queries_are_needed(plan, written):
    for row in plan["choices"]:
        is_whole(row)

    words = words_of(written(plan))

    assert "? cannot tell" in words
    assert "about 3\u202f400 certifying queries Here were 1\u202f000" in words


def test_without_a_plan_the_page_still_shows_what_was_considered(plan, written):
    plan["choices"], plan["needed"] = [], None

    page = written(plan)

    words = words_of(page)
    assert "✕ no plan within the budget" in words
    assert "What was asked for" in words
    assert len(path_of(page)) == 6
    assert len(charts_of(page)["candidates"]) == 3
    assert [note for note in notes_of(page) if "ax" in note] == []
    for absent in ("The choices", "In words", "What is promised"):
        assert absent not in words


def test_without_a_candidate_there_is_a_page_without_a_picture(plan, written):
    plan["choices"] = plan["candidates"] = []

    page = written(plan)

    assert "Everything that was considered" not in page
    assert "What was tested" not in page
    assert plan["verdict"]["headline"] in page


def test_optional_parts_may_be_missing(plan, written):
    for name in ("matryo", "created", "space", "fingerprint", "needed", "how", "seconds"):
        del plan[name]
    del plan["data"]["left_out"], plan["verdict"]["sentences"]
    del plan["settings"]["budget"], plan["settings"]["seed"], plan["promise"]["groups"]
    plan["machine"].update(cold_read_us=None, cold_byte_ns=None, rates={})

    page = written(plan)

    assert plan["verdict"]["headline"] in page
    assert "a cold read unknown" in words_of(page)
    for absent in ("Left out", "most RAM", "needed to tell more"):
        assert absent not in page


@pytest.mark.parametrize("minimize", ["bytes", "latency", "ram"])
def test_what_was_minimized_is_shown_first(plan, written, minimize):
    plan["settings"]["minimize"] = minimize

    page = written(plan)

    titles = [c["layout"]["xaxis"]["title"]["text"] for c in charts_of(page)["candidates"]]
    first = re.search(r'value="0" checked><span>([\w ]+) <small>modelled', page).group(1)
    assert first == {"bytes": "bytes read", "latency": "latency", "ram": "RAM"}[minimize]
    assert titles[0].startswith({"bytes": "bytes", "latency": "latency", "ram": "RAM"}[minimize])
    assert len(set(titles)) == 3


def test_a_cost_that_nobody_knows_is_not_offered(plan, written):
    for one in plan["candidates"]:
        one["latency_ms"] = None

    page = written(plan)

    assert len(charts_of(page)["candidates"]) == 2
    assert page.count('name="cost"') == 2
    assert "unknown" in path_section(page)


def test_candidates_far_below_the_floor_are_counted_where_the_picture_ends(plan, written):
    plan["candidates"] += [{**plan["candidates"][2], "kept": 0.1}] * 300

    words = words_of(written(plan))

    # the floor of 95 % less twice what it allows to lose
    below = sum(one["kept"] < 0.85 for one in plan["candidates"])
    assert f"{below} more candidates keep less than 85.0\u202f%" in words


def test_hostile_names_stay_text(plan, written):
    plain = [tag for tag, _ in Elements(written(plan)).tags]
    plan["data"]["name"] = HOSTILE
    plan["verdict"] = {"headline": HOSTILE, "sentences": [HOSTILE]}
    plan["promise"].update(measure=HOSTILE, groups=[HOSTILE])
    plan["machine"].update(name=HOSTILE, engine=HOSTILE)
    plan["machine"]["rates"] = {HOSTILE: {HOSTILE: 1.0}}
    plan["choices"][0]["explanation"] = [HOSTILE]
    plan["how"] = [HOSTILE]
    plan["seconds"] = {HOSTILE: 1.0}

    page = written(plan)

    found = Elements(page)
    assert HOSTILE not in page
    assert not any("onerror" in attributes for _, attributes in found.tags)
    assert {tag for tag, _ in found.tags} <= set(plain)
    assert [tag for tag, _ in found.tags].count("script") == plain.count("script")
    assert HOSTILE in " ".join(found.words)


def test_what_the_page_does_not_show_is_not_in_its_file(plan, written):
    plan["texts"] = {"q1": "a text that somebody added"}
    plan["data"]["first_query"] = "a text that somebody added"

    page = written(plan)

    assert "somebody" not in page
    assert "only for programs" not in page


def test_a_plan_has_no_texts_to_leave_out(plan):
    assert without_text(plan) == plan


def test_nothing_is_loaded_from_anywhere(plan, written):
    page = written(plan)

    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert "url(" not in page


def test_a_document_fresh_from_planning_makes_the_same_page_as_one_that_was_read(plan, written):
    fresh = {**plan, "promise": {**plan["promise"], "groups": ()}}
    for row in fresh["choices"]:
        row["cost"]["rows_read"] = tuple(row["cost"]["rows_read"])

    assert written(fresh) == written(json.loads(json.dumps(fresh)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), r"\$\.format: expected 1, got 2\n  plan again with"),
        (
            lambda d: d["promise"].update(kind="best"),
            r"\$\.promise\.kind: expected one of mean, share, expected, got 'best'",
        ),
        (
            lambda d: d["promise"].update(kind="share"),
            r"\$\.promise: a promise of kind 'share', and no other, has a query_floor",
        ),
        (
            lambda d: d["promise"].update(floor=1.5),
            r"\$\.promise: floor must be between 0 and 1, got 1\.5",
        ),
        (lambda d: d["split"].pop("report"), r"\$\.split\.report: expected a value, got None"),
        (
            lambda d: d["candidates"][4].update(status="fine"),
            r"\$\.candidates\[4\]\.status: expected one of certified, .*, got 'fine'",
        ),
        (
            lambda d: d["candidates"][4].update(kept=float("inf")),
            r"\$\.candidates\[4\]\.kept: expected a finite number, got inf",
        ),
        (
            lambda d: d["candidates"][0].update(funnel="256@int7:10"),
            r"\$\.candidates\[0\]\.funnel: expected a funnel, as 64@int8:500,768:10, got '256@int7",
        ),
        (
            lambda d: d["candidates"][0].update(funnel="9" * 5000 + ":10"),
            r"\$\.candidates\[0\]\.funnel: expected a funnel",
        ),
        (
            lambda d: d["choices"][1].update(name="best"),
            r"\$\.choices\[1\]\.name: expected one of cheap, balanced, safe, got 'best'",
        ),
        (
            lambda d: d["choices"][1].update(funnel="256@binary:999,256:10"),
            r"\$\.choices\[1\]\.funnel: expected a funnel listed in \$\.candidates",
        ),
        (
            lambda d: d["choices"][1]["cost"].update(rows_read=[20000.0]),
            r"\$\.choices\[1\]\.cost\.rows_read: expected a number for each of the 2 stages",
        ),
        (
            lambda d: d["choices"][2]["measured"].update(queries=0),
            r"\$\.choices\[2\]\.measured\.queries: expected a whole number of at least 1, got 0",
        ),
        (
            lambda d: d["machine"]["rates"]["int8"].update(scan_row_ns="fast"),
            r"\$\.machine\.rates\['int8'\]\['scan_row_ns'\]: expected a finite number, got 'fast'",
        ),
        (lambda d: d.update(machine=[]), r"\$\.machine: expected an object"),
        (
            lambda d: d["settings"].update(minimize="time"),
            r"\$\.settings\.minimize: expected one of bytes, latency, ram, got 'time'",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_the_field(plan, tmp_path, change, message):
    change(plan)

    with pytest.raises(FormatError, match=message) as refusal:
        write_report(plan, tmp_path / "report.html")

    assert str(refusal.value).startswith(refusal.value.field)
    assert not (tmp_path / "report.html").exists()


def notes_of(page):
    return charts_of(page)["candidates"][0]["layout"]["annotations"]


def path_section(page):
    return page[page.index('id="tested-title"') : page.index('id="split-title"')]
