from __future__ import annotations

import math

from matryo.report.charts import quality_chart, score_shift_chart
from matryo.report.document import read_document


def quality(results, measure="nDCG@10"):
    return quality_chart(read_document(results), measure)


def trace(figure, name):
    return next(t for t in figure["data"] if t.get("name") == name)


def test_a_line_shows_the_share_kept_by_bytes_per_vector(results):
    line = trace(quality(results), "int8")

    shown = {
        (row["bytes_per_vector"], row["kept"])
        for row in results["results"]
        if (row["measure"], row["precision"], row["method"]) == ("nDCG@10", "int8", "cut")
    }
    assert set(zip(line["x"], line["y"], strict=True)) == shown


def test_every_size_has_a_tick_with_its_bytes(results):
    axis = quality(results)["layout"]["xaxis"]

    assert axis["type"] == "log"
    assert axis["tickvals"][:3] == [4, 8, 16]
    assert axis["ticktext"][:3] == ["4 B", "8 B", "16 B"]
    assert len(axis["ticktext"]) == len(axis["tickvals"]) == 13


def test_a_narrow_chart_has_fewer_labels_and_always_that_of_the_widest(results):
    figure = quality(results)

    labels = figure["narrow"]["xaxis.ticktext"]

    assert len(labels) == len(figure["layout"]["xaxis"]["tickvals"])
    assert labels[-1] == "3\u202f072 B"
    assert labels.count("") == 3


def test_untrained_sizes_have_hollow_markers(results):
    line = trace(quality(results), "float32")

    hollow = [
        size
        for size, color in zip(line["x"], line["marker"]["color"], strict=True)
        if color == "var(--card)"
    ]
    assert hollow == [32 * 4]


def test_baselines_are_dashed_and_told_apart_from_cuts(results):
    figure = quality(results)

    assert trace(figure, "rotation")["line"]["dash"] == "dash"
    assert trace(figure, "random")["line"]["dash"] == "dot"
    assert "dash" not in trace(figure, "float32")["line"]


def test_the_floor_is_a_dashed_line_with_its_level(results):
    layout = quality(results)["layout"]

    assert layout["shapes"][0]["y0"] == layout["shapes"][0]["y1"] == 0.98
    assert layout["shapes"][0]["line"]["dash"] == "dash"
    assert "floor 98\u202f%" in [note["text"] for note in layout["annotations"]]


def test_the_knee_and_the_recommended_size_are_marked_where_they_lie(results):
    marks = [note for note in quality(results)["layout"]["annotations"] if "ax" in note]

    assert [(round(10 ** note["x"]), note["text"]) for note in marks] == [
        (512, "<b>knee</b><br>128 float32"),
        (256, "<b>recommended</b><br>256 int8"),
    ]


def test_a_knee_that_is_recommended_has_one_label(results):
    results["verdict"]["knee"] = results["verdict"]["recommended"]

    marks = [note for note in quality(results)["layout"]["annotations"] if "ax" in note]

    assert [note["text"] for note in marks] == ["<b>recommended and knee</b><br>256 int8"]


def test_hovering_tells_the_figure_its_interval_and_the_verdict(results):
    line = trace(quality(results), "float32")

    text = line["text"][line["x"].index(4 * 128)]

    row = next(r for r in results["results"] if (r["dim"], r["precision"]) == (128, "float32"))
    assert "128 numbers, float32" in text
    assert f"{row['value']:.3f}" in text
    assert f"{row['low']:.3f} … {row['high']:.3f}" in text
    assert "n = 225" in text
    assert "cannot tell" in text


def test_rows_without_a_share_or_an_interval_leave_the_rest_standing(results):
    for row in results["results"]:
        if row["dim"] == 64:
            row["kept"] = None
        if row["dim"] == 128:
            row["kept_low"] = row["kept_high"] = row["low"] = row["high"] = None

    figure = quality(results)

    assert 64 * 4 not in trace(figure, "float32")["x"]
    assert 128 * 4 in trace(figure, "float32")["x"]
    low, high = figure["layout"]["yaxis"]["range"]
    assert math.isfinite(low)
    assert math.isfinite(high)


def test_the_axis_holds_every_interval_and_the_floor(results):
    low, high = quality(results, "neighbor_recall@10")["layout"]["yaxis"]["range"]

    rows = [r for r in results["results"] if r["measure"] == "neighbor_recall@10"]
    assert low < min(r["kept_low"] for r in rows)
    assert high > max(r["kept_high"] for r in rows)


def test_the_score_curves_run_from_full_width_to_prefix_smallest_size_first(results):
    figure = score_shift_chart(read_document(results))

    names = [curve["name"] for curve in figure["data"]]
    assert names == ["32", "64", "128", "256", "512", "no shift"]
    assert figure["data"][0]["x"] == results["score_shift"][0]["full"]
    assert figure["data"][0]["y"] == results["score_shift"][0]["prefix"]
    assert len({curve["line"]["color"] for curve in figure["data"]}) == 6


def test_score_curves_of_two_precisions_differ_by_name_and_dash(results):
    results["score_shift"] += [{**row, "precision": "int8"} for row in results["score_shift"]]

    curves = score_shift_chart(read_document(results))["data"][:-1]

    assert curves[0]["name"] == "32 float32"
    assert curves[1]["name"] == "32 int8"
    assert curves[0]["line"]["dash"] != curves[1]["line"]["dash"]
