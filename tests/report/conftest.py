from __future__ import annotations

import copy
import os
import shutil

import numpy as np
import pytest

from matryo.core import Funnel, Precision, Space
from matryo.report import write_report

DIMS = (32, 64, 128, 256, 512, 768)
TRAINED = (64, 128, 256, 512, 768)
PRECISIONS = ("float32", "int8", "binary")
MEASURES = {
    # value at full width, how fast it falls, half an interval, queries
    "nDCG@10": ("relevance", "how well the first ten answers are ordered", 0.393, 0.3, 0.008, 225),
    "neighbor_recall@10": (
        "fidelity",
        "share of the full-width top 10 that is found",
        1.0,
        1.6,
        0.012,
        225,
    ),
    "R@100": ("relevance", "share of relevant documents in the top 100", 0.742, 0.25, 0.01, 225),
}
DOCUMENTS = 20000  # of the plan
STATUSES = {
    (256, 400): "certified",
    (256, 200): "certified",
    (256, 100): "certified",
    (256, 50): "failed",
    (128, 100): "untested",
}
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOSS = {"float32": 0.0, "int8": 0.001, "binary": 0.035}


def sample_results():
    """A whole document with made figures: every part is there, and every verdict."""
    space = Space(model="potion-demo", full_dim=768, revision="3f9c1d2")
    return {
        "format": 1,
        "kind": "measure",
        "matryo": "0.1.0",
        "created": "2026-11-24T01:02:03Z",
        "data": {
            "name": "made-cranfield",
            "task": "retrieval",
            "origin": "synthetic",
            "documents": 1398,
            "queries": 225,
            "left_out": [
                {"what": "documents without text", "count": 2, "ids": ["471", "995"]},
                {"what": "queries without a relevant document", "count": 3, "ids": [7, 19, 203]},
            ],
        },
        "space": space.to_dict(),
        "fingerprint": space.fingerprint,
        "trained_dims": list(TRAINED),
        "settings": {
            "dims": list(DIMS),
            "precisions": list(PRECISIONS),
            "k": 10,
            "floor": 0.98,
            "confidence": 0.95,
            "metric": "cosine",
            "seed": 0,
        },
        "verdict": {
            "headline": "256 numbers as int8 keep 98 % of nDCG@10 in 256 bytes, 12 times smaller",
            "sentences": [
                "Below 128 numbers the quality falls quickly: the knee is at 128 numbers.",
                "128 numbers may be enough, but 225 queries cannot tell: about 900 are needed.",
            ],
            "recommended": {"dim": 256, "precision": "int8"},
            "knee": {"dim": 128, "precision": "float32"},
        },
        "measures": [
            {"name": name, "kind": kind, "about": about, "primary": name == "nDCG@10"}
            for name, (kind, about, *_) in MEASURES.items()
        ],
        "results": [row for measure in MEASURES for row in rows(measure)],
        "comparisons": [
            comparison(dim, "rotation", difference)
            for dim, difference in ((32, 0.061), (64, 0.034), (128, 0.012), (256, -0.002))
        ],
        "score_shift": [shift(dim) for dim in DIMS[:-1]],
        "threshold": {
            "full": 0.8,
            "rows": [
                {
                    "dim": dim,
                    "precision": "float32",
                    "prefix": round(0.8 + 1.9 / (dim + 12), 4),
                    "flipped": round(0.9 / dim, 4),
                }
                for dim in DIMS[:-1]
            ],
        },
        "funnel": {
            "text": "64@int8:100,768:10",
            "queries": [funnel_query("q12", 9, 0.31), funnel_query("q57", 10, 0.28)],
            "documents": None,
        },
        "how": [
            "Every size was cut from one encoding and scaled to length 1 again.",
            "Intervals are bootstrapped over queries, 95 % of them hold.",
            "Queries stay float32; only documents are stored at the precision named.",
        ],
        "seconds": {"encode": 1.24, "measure": 3.41},
    }


def rows(measure):
    _, _, full, fall, half, n = MEASURES[measure]
    methods = [("cut", precision) for precision in PRECISIONS]
    methods += [("random", "float32"), ("rotation", "float32")]
    for method, precision in methods:
        for dim in DIMS:
            share = 1 - fall * ((32 / dim) ** 1.15 - (32 / 768) ** 1.15) * 0.42
            share -= LOSS[precision] * (768 / dim) ** 0.4
            if method != "cut":
                share -= {"random": 0.2, "rotation": 0.09}[method] * fall * (1 - dim / 768)
            reference = dim == 768 and precision == "float32"
            near = 0 if reference else half * (1.4 - dim / 768)
            low, high = share - near * 1.1, share + near * 0.9
            verdict = "keeps" if low >= 0.98 else "below" if high < 0.98 else "cannot tell"
            if method != "cut":
                verdict = "figure only"
            yield {
                "dim": dim,
                "precision": precision,
                "method": method,
                "measure": measure,
                "value": round(full * share, 4),
                "low": round(full * share - 0.03, 4),
                "high": round(min(full * share + 0.03, 1), 4),
                "n": n,
                "origin": "synthetic",
                "verdict": "reference" if reference else verdict,
                "kept": round(share, 4),
                "kept_low": round(low, 4),
                "kept_high": round(high, 4),
                "needed": 900 if verdict == "cannot tell" and not reference else None,
                "bytes_per_vector": Precision.parse(precision).bytes_per_vector(dim),
                "trained": dim in TRAINED,
            }


def comparison(dim, better, difference):
    return {
        "dim": dim,
        "precision": "float32",
        "measure": "nDCG@10",
        "a": better,
        "b": "cut",
        "difference": difference,
        "low": round(difference - 0.011, 4),
        "high": round(difference + 0.012, 4),
        "n": 225,
        "verdict": better if difference > 0.011 else "no difference shown",
    }


def shift(dim):
    full = np.linspace(0.05, 0.9, 30)
    prefix = full + (0.9 - full) * 2.6 / (dim**0.55 + 2)
    return {
        "dim": dim,
        "precision": "float32",
        "mean": round(float((prefix - full).mean()), 4),
        "error_mean": round(0.8 / dim**0.8, 4),
        "error_p95": round(2.1 / dim**0.8, 4),
        "full": full.round(4).tolist(),
        "prefix": prefix.round(4).tolist(),
    }


def funnel_query(name, overlap, ms):
    ids = [str(184 + 37 * place % 1200) for place in range(10)]
    return {
        "id": name,
        "text": None,
        "full": {"ids": ids, "ms": 1.22, "bytes": 1398 * 3072},
        "funnel": {
            "ids": ids[:overlap] + [f"9{place}" for place in range(10 - overlap)],
            "ms": ms,
            "bytes": 1398 * 64 + 100 * 3072,
        },
        "overlap": overlap,
    }


def sample_plan():
    """A whole plan document with made figures: every status is there, and three choices."""
    space = Space(model="potion-demo", full_dim=256, revision="3f9c1d2")
    promise = {
        "kind": "mean",
        "measure": "neighbor_recall@10",
        "floor": 0.95,
        "confidence": 0.95,
        "query_floor": None,
        "groups": [],
    }
    return {
        "format": 1,
        "kind": "plan",
        "matryo": "0.1.0",
        "created": "2026-11-25T01:02:03Z",
        "data": {
            "name": "made-pubmed",
            "origin": "synthetic",
            "documents": DOCUMENTS,
            "queries": 2000,
            "left_out": [{"what": "query texts that are empty", "count": 1, "ids": ["q7"]}],
        },
        "space": space.to_dict(),
        "fingerprint": space.fingerprint,
        "settings": {
            "dims": [64, 128, 256],
            "precisions": ["float32", "int8", "binary"],
            "k": 10,
            "minimize": "bytes",
            "budget": {"ram_bytes": 12e6, "disk_bytes": None, "latency_p95_ms": 20.0},
            "metric": "cosine",
            "seed": 0,
        },
        "promise": promise,
        "machine": machine(),
        "verdict": {
            "headline": "256@binary:100,256:10 keeps 0.95 of full-width neighbor_recall@10.",
            "sentences": ["Searching every row at full width takes 2.2 ms (modelled)."],
        },
        "split": {"order": 500, "certify": 1000, "report": 500},
        "needed": 3400,
        "choices": [
            choice(name, keep, promise)
            for name, keep in (("cheap", 100), ("balanced", 200), ("safe", 400))
        ],
        "candidates": [
            candidate("256:10", status="certified"),
            candidate("256@int8:10", status="too dear"),
            candidate("64:10"),
            candidate("128@binary:400,256:10", stops=True),
            *(
                candidate(f"{dim}@binary:{keep},256:10", status=STATUSES.get((dim, keep)))
                for dim in (64, 128, 256)
                for keep in (20, 50, 100, 200, 400)
            ),
        ],
        "how": ["Queries and documents are made up."],
        "seconds": {"encode": 1.24, "plan": 3.41},
    }


def candidate(funnel, *, status=None, stops=False):
    """A candidate with made figures; a stop rule saves a quarter of what a later stage reads."""
    stages = Funnel.parse(funnel).stages
    sizes = [stage.precision.bytes_per_vector(stage.dim) for stage in stages]
    rows = [DOCUMENTS, *(stage.keep * (0.75 if stops else 1) for stage in stages[:-1])]
    lost = 0.4 * (20 / stages[0].keep) * (64 / stages[0].dim) if len(stages) > 1 else 0.0
    whole = len(stages) == 1
    return {
        "funnel": funnel,
        "stops": stops,
        "kept": round(1 - lost - (256 / stages[0].dim - 1) * 0.08 * whole, 4),
        "bytes_read": float(sum(size * n for size, n in zip(sizes, rows, strict=True))),
        "latency_ms": 0.1 + sum(rows) * 1e-4,
        "ram_bytes": DOCUMENTS * (8 + sum(sizes[: max(1, len(sizes) - 1)])),
        "disk_bytes": DOCUMENTS * (8 + sum(sizes)),
        "status": status or "passed over",
        "p_value": {"certified": None if whole else 0.004, "failed": 0.21}.get(status),
    }


def choice(name, keep, promise):
    """The choice of the candidate with a shortlist of so many rows."""
    funnel = f"256@binary:{keep},256:10"
    one = candidate(funnel)
    return {
        "name": name,
        "funnel": funnel,
        "kept": one["kept"] + 0.001,
        "low": one["kept"] - 0.012,
        "high": one["kept"] + 0.004,
        "n": 500,
        "cost": {
            "bytes_read": one["bytes_read"],
            "rows_read": [float(DOCUMENTS), float(keep)],
            "latency_ms": one["latency_ms"],
            "latency_p95_ms": 1.3 * one["latency_ms"],
            "latency_cold_ms": 7.5,
            "ram_bytes": one["ram_bytes"],
            "disk_bytes": one["disk_bytes"],
            "price_per_million": None,
            "origin": "modelled",
        },
        "measured": {
            "latency_ms": 3.25,
            "latency_p95_ms": 4.75,
            "bytes_read": one["bytes_read"],
            "queries": 50,
        },
        "explanation": [
            f"{name.capitalize()}: score every row by 256 numbers as binary and keep {keep}.",
            f"Promise: what {name} promises.",
            f"It costs what {name} costs.",
            f"Beside {name} there is something else.",
            f"Ordered on 500 queries for {name}.",
        ],
        "plan": {"promise": promise, "evidence": {"note": "only for programs"}},
    }


def machine():
    rates = {
        "query_number_ns": 1.5,
        "scan_row_ns": 7.25,
        "scan_byte_ns": 0.014,
        "scan_far_byte_ns": 0.05,
        "rescore_row_ns": 32.5,
        "rescore_byte_ns": 0.115,
    }
    return {
        "kind": "machine",
        "format": 1,
        "name": "Made Processor",
        "engine": "matryo in memory, numpy",
        "version": "matryo 0.1.0, numpy 2.4.6",
        "measured": "2026-11-24",
        "processors": 2,
        "rates": {name: dict(rates) for name in PRECISIONS},
        "stage_ns": 64000.0,
        "kept_row_ns": 32.0,
        "kept_number_ns": 1.6,
        "p95_ratio": 1.3,
        "cold_read_us": 53.0,
        "cold_byte_ns": 0.97,
        "row_overhead_bytes": 8,
    }


@pytest.fixture
def results():
    return sample_results()


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """Path of the report of the sample document, written once."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(copy.deepcopy(sample_results()), path)
    return path


@pytest.fixture
def plan():
    return sample_plan()


@pytest.fixture(scope="session")
def plan_report(tmp_path_factory):
    """Path of the report of the sample plan, written once."""
    path = tmp_path_factory.mktemp("report") / "plan.html"
    write_report(sample_plan(), path)
    return path


@pytest.fixture
def written(tmp_path):
    """Write a document and return the page without the chart library."""

    from plotly.offline import get_plotlyjs

    def write(document):
        write_report(document, tmp_path / "report.html")
        return (tmp_path / "report.html").read_text("utf-8").replace(get_plotlyjs(), "")

    return write


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    chromedriver = shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        webdriver = None
    if not (chromium and chromedriver and webdriver):
        reason = "needs selenium, chromium and chromedriver"
        if os.environ.get("MATRYO_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=chromedriver)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
