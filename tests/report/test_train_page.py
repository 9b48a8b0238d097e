"""The page of a training run: every size before and after, and the losses along the way."""

from __future__ import annotations

import json
import re

import pytest

from matryo.core import FormatError
from matryo.report import write_report


def document():
    rows = [
        (32, 0.70, 0.75, 0.02, 0.08),
        (64, 0.80, 0.80, -0.01, 0.01),
        (128, 0.85, 0.82, -0.05, -0.01),
    ]
    return {
        "format": 1,
        "kind": "train",
        "data": {
            "name": "pairs.jsonl",
            "kind": "pairs",
            "origin": "synthetic",
            "training": 900,
            "held_out": 100,
        },
        "model": {"name": "minilm", "full_dim": 128},
        "settings": {
            "dims": [32, 64, 128],
            "steps": 20,
            "batch_size": 32,
            "learning_rate": 2e-5,
            "seed": 0,
        },
        "verdict": {"headline": "nDCG@10: better at 32 and worse at 128."},
        "history": [
            {
                "step": step,
                "learning_rate": 2e-5,
                "loss": 3.0 / step,
                "per_size": {"32": 2.0 / step, "64": 1.0 / step, "128": 0.5 / step},
            }
            for step in (10, 20)
        ],
        "quality": [
            {
                "measure": "nDCG@10",
                "dim": dim,
                "precision": "float32",
                "before": before,
                "after": after,
                "difference": after - before,
                "low": low,
                "high": high,
                "n": 100,
            }
            for dim, before, after, low, high in rows
        ],
        "seconds": {"train": 12.0},
    }


@pytest.fixture
def page(tmp_path):
    def write(made):
        write_report(made, tmp_path / "report.html")
        return (tmp_path / "report.html").read_text("utf-8")

    return write


def test_the_headline_and_what_changed_at_every_size_are_there(page):
    text = page(document())

    assert "nDCG@10: better at 32 and worse at 128." in text
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    marks = [re.sub("<[^>]+>", "", row) for row in re.findall(r"<span class=.pill.*", body)]
    assert [mark.strip() for mark in marks] == ["✓after", "=no difference shown", "✕before"]


def test_there_is_one_line_of_losses_for_each_size(page):
    text = page(document())

    charts = re.search(r'id="charts">(.*?)</script>', text)[1]
    (figure,) = json.loads(charts)["losses"]
    assert [line["name"] for line in figure["data"]] == ["32", "64", "128"]
    assert figure["data"][0]["x"] == [10, 20]
    assert figure["data"][0]["y"] == [0.2, 0.1]


def test_a_run_that_held_nothing_out_has_losses_alone(page):
    text = page(document() | {"quality": []})

    assert "before and after" not in text
    assert "Loss of every size" in text


def test_a_run_without_a_step_is_refused(page):
    with pytest.raises(FormatError, match=r"\$\.history: expected at least one step"):
        page(document() | {"history": []})
