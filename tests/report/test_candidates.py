"""The picture of all candidates against the document."""

from __future__ import annotations

import math

import pytest

from matryo.report.candidates import COSTS, candidates_chart
from matryo.report.document import read_document

FIELDS = {"bytes": "bytes_read", "latency": "latency_ms", "ram": "ram_bytes"}


def chart(plan, cost="bytes"):
    return candidates_chart(read_document(plan), cost)


def trace(figure, name):
    return next(t for t in figure["data"] if t["name"] == name)


def labels(figure):
    return [note for note in figure["layout"]["annotations"] if "ax" in note]


@pytest.mark.parametrize("cost", COSTS)
def test_every_candidate_has_one_dot_at_its_cost_and_what_it_keeps(plan, cost):
    figure = chart(plan, cost)

    statuses = {one["status"] for one in plan["candidates"]}
    assert statuses == {"certified", "failed", "untested", "too dear", "passed over"}
    for status in statuses:
        dots = trace(figure, status)
        those = [one for one in plan["candidates"] if one["status"] == status]
        assert list(zip(dots["x"], dots["y"], strict=True)) == [
            (one[FIELDS[cost]], one["kept"]) for one in those
        ]


def test_a_candidate_whose_cost_is_unknown_has_no_dot_there_and_one_elsewhere(plan):
    plan["candidates"][2]["latency_ms"] = None
    dots = len(trace(chart(plan), "passed over")["x"])

    assert len(trace(chart(plan, "latency"), "passed over")["x"]) == dots - 1


def test_certified_dots_are_full_failed_ones_crossed_and_those_not_tested_hollow(plan):
    figure = chart(plan)

    marks = {t["name"]: t["marker"] for t in figure["data"] if "marker" in t}
    assert marks["certified"]["color"] == "var(--good)"
    assert marks["failed"]["symbol"] == "x-thin"
    assert marks["untested"]["color"] == marks["too dear"]["color"] == "var(--card)"
    assert "/" in marks["passed over"]["color"]
    # what matters is drawn after what does not
    names = [t["name"] for t in figure["data"]]
    assert names.index("passed over") < names.index("failed") < names.index("certified")


def test_a_candidate_that_stops_early_is_a_diamond(plan):
    dots = trace(chart(plan), "passed over")

    stopping = [
        text
        for text, symbol in zip(dots["text"], dots["marker"]["symbol"], strict=True)
        if symbol == "diamond"
    ]
    assert stopping == ["128@binary:400,256:10 stopping early"]


@pytest.mark.parametrize("cost", COSTS)
def test_the_choices_are_ringed_and_named_at_their_candidates(plan, cost):
    figure = chart(plan, cost)

    by_funnel = {one["funnel"]: one for one in plan["candidates"]}
    chosen = [by_funnel[row["funnel"]] for row in plan["choices"]]
    where = [(one[FIELDS[cost]], one["kept"]) for one in chosen]
    ring = trace(figure, "chosen")
    assert list(zip(ring["x"], ring["y"], strict=True)) == where
    assert [(10 ** note["x"], note["y"]) for note in labels(figure)] == [
        (pytest.approx(x), y) for x, y in where
    ]
    names = [note["text"] for note in labels(figure)]
    assert names == ["<b>cheap</b>", "<b>balanced</b>", "<b>safe</b>"]


def test_two_stop_rules_of_one_funnel_are_told_apart_by_what_they_read(plan):
    stopping = plan["candidates"][3]
    plan["candidates"].append({**stopping, "bytes_read": 777000.0, "kept": 0.979})
    row = plan["choices"][0]
    row["funnel"] = "128@binary:400,256:10,margin[20;2.0;0.5/0.1/0.05]"
    row["cost"].update(bytes_read=777000.0, rows_read=[20000.0, 300.0])

    ring = trace(chart(plan), "chosen")

    assert (ring["x"][0], ring["y"][0]) == (777000.0, 0.979)


def test_the_stairs_are_the_best_that_each_price_buys_within_the_budget(plan):
    stairs = trace(chart(plan), "best at its price")

    affordable = [one for one in plan["candidates"] if one["status"] != "too dear"]
    for price, kept in zip(stairs["x"], stairs["y"], strict=True):
        assert kept == max(one["kept"] for one in affordable if one["bytes_read"] <= price)
    for one in affordable:
        below = [y for x, y in zip(stairs["x"], stairs["y"], strict=True) if x <= one["bytes_read"]]
        assert one["kept"] <= below[-1]
    assert stairs["y"] == sorted(set(stairs["y"]))


def test_the_floor_is_a_dashed_line_with_its_level(plan):
    layout = chart(plan)["layout"]

    assert layout["shapes"][0]["y0"] == layout["shapes"][0]["y1"] == 0.95
    assert layout["shapes"][0]["line"]["dash"] == "dash"
    assert "floor 95\u202f%" in [note["text"] for note in layout["annotations"]]
    assert "synthetic data" in [note["text"] for note in layout["annotations"]]


def test_many_bad_candidates_do_not_flatten_the_picture(plan):
    before = chart(plan)["layout"]
    plan["candidates"] += [{**plan["candidates"][2], "kept": 0.1, "bytes_read": 1.0}] * 300

    after = chart(plan)["layout"]

    low, high = after["yaxis"]["range"]
    assert 0.8 < low < 0.95 < 1 < high < 1.05
    assert after["yaxis"]["range"] == before["yaxis"]["range"]
    assert after["xaxis"]["range"] == before["xaxis"]["range"]


def test_what_was_tested_is_in_the_picture_however_bad_it_is(plan):
    next(one for one in plan["candidates"] if one["status"] == "failed")["kept"] = 0.31

    low, _ = chart(plan)["layout"]["yaxis"]["range"]

    assert low < 0.31


def test_what_keeps_more_than_the_full_width_is_in_the_picture(plan):
    plan["candidates"][2]["kept"] = 1.07

    _, high = chart(plan)["layout"]["yaxis"]["range"]

    assert high > 1.07


@pytest.mark.parametrize("cost", COSTS)
def test_there_is_room_for_the_labels_left_of_the_choices(plan, cost):
    figure = chart(plan, cost)

    for (low, high), part in (
        (figure["layout"]["xaxis"]["range"], 0.2),
        (figure["narrow"]["xaxis.range"], 0.38),
    ):
        places = [(note["x"] - low) / (high - low) for note in labels(figure)]
        assert min(places) >= part - 1e-9


def test_ticks_are_round_and_a_narrow_chart_names_fewer(plan):
    figure = chart(plan)

    axis = figure["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert dict(zip(axis["ticktext"], axis["tickvals"], strict=True))["500\u202fkB"] == 5e5
    assert dict(zip(axis["ticktext"], axis["tickvals"], strict=True))["1\u202fMB"] == 1e6
    narrow = figure["narrow"]["xaxis.ticktext"]
    assert len(narrow) == len(axis["tickvals"])
    assert [text for text in narrow if text][-2:] == ["1\u202fMB", "10\u202fMB"]
    assert "500\u202fkB" not in narrow


def test_hovering_tells_the_costs_as_modelled_and_the_p_value(plan):
    dots = trace(chart(plan), "failed")

    assert dots["text"] == ["256@binary:50,256:10"]
    told = dots["customdata"][0]
    for text in (
        "691.2\u202fkB read",
        "2.10\u202fms",
        "800.0\u202fkB of RAM (modelled)",
        "p 0.210",
    ):
        assert text in told


def test_the_axis_says_what_share_is_kept(plan):
    assert chart(plan)["layout"]["yaxis"]["title"]["text"] == "neighbor_recall@10, share kept"
    plan["promise"].update(kind="share", query_floor=0.9)

    title = chart(plan)["layout"]["yaxis"]["title"]["text"]

    assert title == "queries that reach 90\u202f%"


def test_one_candidate_alone_still_has_a_picture(plan):
    plan["choices"], plan["candidates"] = [], plan["candidates"][:1]

    low, high = chart(plan)["layout"]["xaxis"]["range"]

    assert math.isfinite(low)
    assert low < math.log10(plan["candidates"][0]["bytes_read"]) < high
