"""The shape of each kind of document; `docs/results-schema.md` describes them for people.

A dict is an object with these fields (others are let through), a list is a list of its one element,
`("each", x)` is an object of x by any name, another tuple is a choice, a word is a kind of value. A
field whose name ends in "?" may be missing or null.
"""

from __future__ import annotations

from typing import Any

from matryo.core import Precision

_PRECISION = tuple(precision.value for precision in Precision)
_POINT = {"dim": "size", "precision": _PRECISION}
METHODS = ("cut", "rotation", "random")
_ORIGIN = ("real", "sample", "synthetic")
_LEFT_OUT = [{"what": "text", "count": "count", "ids?": ["id"]}]
_ANSWER = {"ids": ["id"], "ms": "number", "bytes": "count"}
MEASURE: dict[str, Any] = {
    "matryo?": "text",
    "created?": "text",
    "data": {
        "name": "text",
        "task": ("retrieval", "fidelity", "pairs", "labelled"),
        "origin": _ORIGIN,
        "documents?": "count",
        "queries?": "count",
        "left_out?": _LEFT_OUT,
    },
    "space?": {},
    "fingerprint?": "text",
    "trained_dims?": ["size"],
    "settings": {
        "dims": ["size"],
        "precisions": [_PRECISION],
        "k?": "count",
        "floor": "number",
        "confidence": "number",
        "metric": "text",
        "seed?": "count",
    },
    "verdict": {
        "headline": "text",
        "sentences?": ["text"],
        "recommended?": _POINT,
        "knee?": _POINT,
    },
    "measures": [{"name": "text", "kind": "text", "about?": "text", "primary?": "flag"}],
    "results": [
        {
            **_POINT,
            "method": METHODS,
            "measure": "text",
            "value": "number",
            "low?": "number",
            "high?": "number",
            "n": "count",
            "origin": _ORIGIN,
            "verdict": ("keeps", "below", "cannot tell", "figure only", "reference"),
            "kept?": "number",
            "kept_low?": "number",
            "kept_high?": "number",
            "needed?": "count",
            "bytes_per_vector": "size",
            "trained?": "flag",
        }
    ],
    "comparisons?": [
        {
            **_POINT,
            "measure": "text",
            "a": METHODS,
            "b": METHODS,
            "difference": "number",
            "low?": "number",
            "high?": "number",
            "n": "count",
            "verdict": (*METHODS, "no difference shown"),
        }
    ],
    "score_shift?": [
        {
            **_POINT,
            "mean": "number",
            "error_mean": "number",
            "error_p95": "number",
            "full": ["number"],
            "prefix": ["number"],
        }
    ],
    "threshold?": {
        "full": "number",
        "rows": [{**_POINT, "prefix": "number", "flipped": "number"}],
    },
    "funnel?": {
        "text": "text",
        "queries": [
            {"id": "id", "text?": "text", "full": _ANSWER, "funnel": _ANSWER, "overlap": "count"}
        ],
        "documents?": ("each", "text"),
    },
    "how?": ["text"],
    "seconds?": ("each", "number"),
}

# the first two were tested; the third was meant to be, had none failed before
STATUSES = ("certified", "failed", "untested", "too dear", "passed over")
_LIMITS = {
    "ram_bytes?": "number",
    "disk_bytes?": "number",
    "latency_p95_ms?": "number",
    "price_per_million?": "number",
}
PLAN: dict[str, Any] = {
    "matryo?": "text",
    "created?": "text",
    "data": {
        "name": "text",
        "origin": _ORIGIN,
        "documents": "size",
        "queries": "count",
        "left_out?": _LEFT_OUT,
    },
    "space?": {},
    "fingerprint?": "text",
    "settings": {
        "dims": ["size"],
        "precisions": [_PRECISION],
        "k": "size",
        "minimize": ("bytes", "latency", "ram"),
        "budget?": _LIMITS,
        "metric": "text",
        "seed?": "count",
    },
    "promise": {
        "kind": ("mean", "share", "expected"),
        "measure": "text",
        "floor": "number",
        "confidence?": "number",
        "query_floor?": "number",
        "groups?": ["text"],
    },
    "machine": {
        "name": "text",
        "engine": "text",
        "version": "text",
        "measured": "text",
        "processors": "size",
        "rates": ("each", ("each", "number")),
        "stage_ns": "number",
        "kept_row_ns": "number",
        "kept_number_ns": "number",
        "p95_ratio": "number",
        "cold_read_us?": "number",
        "cold_byte_ns?": "number",
        "row_overhead_bytes": "count",
    },
    "verdict": {"headline": "text", "sentences?": ["text"]},
    "split": {"order": "count", "certify": "count", "report": "count"},
    "needed?": "count",
    "choices": [
        {
            "name": ("cheap", "balanced", "safe"),
            "funnel": "funnel",
            "kept": "number",
            "low": "number",
            "high": "number",
            "n": "count",
            "cost": {
                "bytes_read": "number",
                "rows_read": ["number"],
                "latency_ms?": "number",
                "latency_p95_ms?": "number",
                "latency_cold_ms?": "number",
                "ram_bytes": "number",
                "disk_bytes": "number",
                "price_per_million?": "number",
                "origin": ("modelled", "measured"),
            },
            "measured?": {
                "latency_ms": "number",
                "latency_p95_ms": "number",
                "bytes_read": "number",
                "queries": "size",
            },
            "explanation": ["text"],
            "plan": {"promise?": {}},
        }
    ],
    "candidates": [
        {
            "funnel": "funnel",
            "stops": "flag",
            "kept": "number",
            "bytes_read": "number",
            "latency_ms?": "number",
            "ram_bytes": "number",
            "disk_bytes": "number",
            "status": STATUSES,
            "p_value?": "number",
        }
    ],
    "how?": ["text"],
    "seconds?": ("each", "number"),
}

_GAIN = {"difference?": "number", "low?": "number", "high?": "number"}
_VALUE = {"method": "text", "dim": "size", "value": "number", **_GAIN}
ADAPT: dict[str, Any] = {
    "matryo?": "text",
    "created?": "text",
    "data": {
        "name": "text",
        "task": ("retrieval", "fidelity", "pairs", "labelled"),
        "origin": _ORIGIN,
        "documents?": "count",
        "queries?": "count",
        "left_out?": _LEFT_OUT,
    },
    "space?": {},
    "fingerprint?": "text",
    "trained_dims?": ["size"],
    "settings": {
        "dims": ["size"],
        "weights?": ["number"],
        "methods": "text",
        "k?": "size",
        "confidence": "number",
        "metric": "text",
        "seed?": "count",
    },
    "verdict": {"headline": "text", "recommended": "flag", "sentences?": ["text"]},
    "measure": "text",
    "split": {
        "what": "text",
        "taught": "count",
        "chose": "count",
        "judged": "count",
        "documents": "count",
        "searched": "count",
        "digest": "text",
    },
    "methods": [
        {
            "name": "text",
            "what": "text",
            "lossless": "flag",
            "chosen": "flag",
            "best": "flag",
            "seconds?": "number",
            "value": "number",
            **_GAIN,
        }
    ],
    "results": [{**_VALUE, "trained?": "flag"}],
    "elsewhere?": [{"trial": "text", "measure": "text", **_VALUE}],
    "map": {"method": "text", "makes": "text"},
    "how?": ["text"],
    "seconds?": ("each", "number"),
}

TRAIN: dict[str, Any] = {
    "matryo?": "text",
    "created?": "text",
    "data": {
        "name": "text",
        "kind": "text",
        "origin": _ORIGIN,
        "training": "count",
        "held_out": "count",
        "documents?": "count",
        "queries?": "count",
        "left_out?": _LEFT_OUT,
    },
    "space?": {},
    "fingerprint?": "text",
    "model": {"name": "text", "full_dim": "size"},
    "settings": {
        "dims": ["size"],
        "steps": "size",
        "batch_size": "size",
        "learning_rate": "number",
        "seed": "count",
    },
    "verdict": {"headline": "text", "sentences?": ["text"]},
    "history": [
        {
            "step": "size",
            "learning_rate": "number",
            "loss": "number",
            "per_size": ("each", "number"),
        }
    ],
    "quality": [
        {
            **_POINT,
            "measure": "text",
            "before": "number",
            "after": "number",
            "difference": "number",
            "low": "number",
            "high": "number",
            "n": "size",
        }
    ],
    "seconds?": ("each", "number"),
}
SHAPES = {"measure": MEASURE, "plan": PLAN, "adapt": ADAPT, "train": TRAIN}
