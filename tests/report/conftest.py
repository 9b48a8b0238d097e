from __future__ import annotations

import copy

import numpy as np
import pytest

from matryo.core import Precision, Space
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


@pytest.fixture
def results():
    return sample_results()


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """Path of the report of the sample document, written once."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(copy.deepcopy(sample_results()), path)
    return path
