"""The shape of a results document; `docs/results-schema.md` describes it for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matryo.core import FormatError, Precision, shorten

FORMAT = 1

# A dict is an object with these fields (others are let through), a list is a list of its one
# element, ("each", x) is an object of x by any name, another tuple is a choice, a word is a kind of
# value. A field whose name ends in "?" may be missing or null.
_PRECISION = tuple(precision.value for precision in Precision)
_POINT = {"dim": "size", "precision": _PRECISION}
METHODS = ("cut", "rotation", "random")
_ORIGIN = ("real", "sample", "synthetic")
_ANSWER = {"ids": ["id"], "ms": "number", "bytes": "count"}
_SHAPE = {
    "matryo?": "text",
    "created?": "text",
    "data": {
        "name": "text",
        "task": ("retrieval", "fidelity", "pairs", "labelled"),
        "origin": _ORIGIN,
        "documents?": "count",
        "queries?": "count",
        "left_out?": [{"what": "text", "count": "count", "ids?": ["id"]}],
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


def read_document(results: Mapping[str, Any]) -> dict[str, Any]:
    """Check a results document and give a copy in which every optional field is there, maybe None.

    Raises:
        FormatError: not a results document, a newer format, or a field that is missing or wrong;
            `field` names it.
    """
    kind, number = results.get("kind"), results.get("format")
    if kind != "measure":
        raise _wrong("$.kind", "'measure'", kind)
    if number != FORMAT:
        raise FormatError(
            f"$.format: expected {FORMAT}, got {number!r}",
            hint="measure again with this version of matryo, or install the one that wrote it",
            field="$.format",
        )
    document: dict[str, Any] = _read(results, _SHAPE, "$")
    if not document["measures"]:
        raise _wrong("$.measures", "at least one measure", document["measures"])
    known = [measure["name"] for measure in document["measures"]]
    for part in ("results", "comparisons"):
        for row, values in enumerate(document[part] or ()):
            if values["measure"] not in known:
                expected = f"a name listed in $.measures ({', '.join(known)})"
                raise _wrong(f"$.{part}[{row}].measure", expected, values["measure"])
    return document


def _read(value: Any, shape: Any, where: str) -> Any:
    match shape:
        case dict():
            fields = dict(_require(value, Mapping, "an object", where))
            for field, inner in shape.items():
                name = field.removesuffix("?")
                if fields.get(name) is not None:
                    fields[name] = _read(fields[name], inner, f"{where}.{name}")
                elif name == field:
                    raise _wrong(f"{where}.{name}", "a value", fields.get(name))
                else:
                    fields[name] = None
            return fields
        case [inner] if isinstance(shape, list):
            items = _require(value, list, "a list", where)
            return [_read(item, inner, f"{where}[{row}]") for row, item in enumerate(items)]
        case ("each", inner):
            items = _require(value, Mapping, "an object", where)
            return {name: _read(item, inner, f"{where}[{name!r}]") for name, item in items.items()}
        case _:
            _check_plain(value, shape, where)
            return value


def _require(value: Any, kind: type, name: str, where: str) -> Any:
    if not isinstance(value, kind):
        raise _wrong(where, name, value)
    return value


def _check_plain(value: Any, shape: str | tuple[str, ...], where: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    match shape:
        case "text":
            fits, expected = isinstance(value, str), "text"
        case "flag":
            fits, expected = isinstance(value, bool), "true or false"
        case "count":
            fits, expected = whole and value >= 0, "a whole number of at least 0"
        case "size":
            fits, expected = whole and value >= 1, "a whole number of at least 1"
        case "number":
            fits = whole or (isinstance(value, float) and math.isfinite(value))
            expected = "a finite number"
        case "id":
            fits, expected = whole or isinstance(value, str), "a string or an integer"
        case _:
            fits, expected = value in shape, f"one of {', '.join(shape)}"
    if not fits:
        raise _wrong(where, expected, value)


def _wrong(field: str, expected: str, value: object) -> FormatError:
    return FormatError(f"{field}: expected {expected}, got {shorten([value])}", field=field)
