"""Reading a document: its kind, its shape, and that what refers to something finds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from matryo.core import (
    FormatError,
    Funnel,
    InputError,
    Promise,
    UnknownNameError,
    shorten,
)
from matryo.report.shapes import SHAPES

FORMAT = 1


def read_document(results: Mapping[str, Any]) -> dict[str, Any]:
    """Check a document and give a copy in which every optional field is there, maybe None.

    Args:
        results: A document of any kind that `SHAPES` names.

    Raises:
        FormatError: no such document, a newer format, or a field that is missing or wrong; `field`
            names it.
    """
    kind, number = results.get("kind"), results.get("format")
    if kind not in list(SHAPES):
        raise _wrong("$.kind", " or ".join(map(repr, SHAPES)), kind)
    if number != FORMAT:
        raise FormatError(
            f"$.format: expected {FORMAT}, got {number!r}",
            hint=f"{kind} again with this version of matryo, or install the one that wrote it",
            field="$.format",
        )
    document: dict[str, Any] = _read(results, SHAPES[str(kind)], "$")
    checks = {
        "measure": _check_measure,
        "plan": _check_plan,
        "adapt": _check_adapt,
        "train": _check_train,
    }
    checks[str(kind)](document)
    return document


def find_candidate(
    choice: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]
) -> int | None:
    """Place of the candidate that a choice is; None if it is none of them.

    Candidates are listed without the numbers of their stop rules, which the bytes tell apart.
    """
    funnel = Funnel.parse(choice["funnel"])
    wanted = (str(Funnel(funnel.stages)), funnel.stop is not None, choice["cost"]["bytes_read"])
    for place, one in enumerate(candidates):
        if (one["funnel"], one["stops"], one["bytes_read"]) == wanted:
            return place
    return None


def _check_measure(document: Mapping[str, Any]) -> None:
    if not document["measures"]:
        raise _wrong("$.measures", "at least one measure", document["measures"])
    known = [measure["name"] for measure in document["measures"]]
    for part in ("results", "comparisons"):
        for row, values in enumerate(document[part] or ()):
            if values["measure"] not in known:
                expected = f"a name listed in $.measures ({', '.join(known)})"
                raise _wrong(f"$.{part}[{row}].measure", expected, values["measure"])


def _check_plan(document: Mapping[str, Any]) -> None:
    promise = document["promise"]
    known = {item.name: promise[item.name] for item in fields(Promise)}
    try:
        Promise(**{**known, "groups": tuple(promise["groups"] or ())})
    except InputError as error:
        raise FormatError(f"$.promise: {error}", field="$.promise") from error
    for row, choice in enumerate(document["choices"]):
        stages, read = Funnel.parse(choice["funnel"]).stages, choice["cost"]["rows_read"]
        if len(read) != len(stages):
            expected = f"a number for each of the {len(stages)} stages"
            raise _wrong(f"$.choices[{row}].cost.rows_read", expected, read)
        if find_candidate(choice, document["candidates"]) is None:
            expected = "a funnel listed in $.candidates with the same bytes_read"
            raise _wrong(f"$.choices[{row}].funnel", expected, choice["funnel"])


def _check_adapt(document: Mapping[str, Any]) -> None:
    known = [method["name"] for method in document["methods"]]
    dims = document["settings"]["dims"]
    for part in ("results", "elsewhere"):
        for row, values in enumerate(document[part] or ()):
            for field, names in (("method", known), ("dim", dims)):
                if values[field] not in names:
                    expected = f"one of {', '.join(map(str, names))}"
                    raise _wrong(f"$.{part}[{row}].{field}", expected, values[field])
    if document["map"]["method"] not in known:
        raise _wrong("$.map.method", f"one of {', '.join(known)}", document["map"]["method"])


def _check_train(document: Mapping[str, Any]) -> None:
    if not document["history"]:
        raise _wrong("$.history", "at least one step", document["history"])


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
            items = _require(value, (list, tuple), "a list", where)
            return [_read(item, inner, f"{where}[{row}]") for row, item in enumerate(items)]
        case ("each", inner):
            items = _require(value, Mapping, "an object", where)
            return {name: _read(item, inner, f"{where}[{name!r}]") for name, item in items.items()}
        case _:
            _check_plain(value, shape, where)
            return value


def _require(value: Any, kind: type | tuple[type, ...], name: str, where: str) -> Any:
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
        case "funnel":
            fits, expected = _is_funnel(value), "a funnel, as 64@int8:500,768:10"
        case _:
            fits, expected = value in shape, f"one of {', '.join(shape)}"
    if not fits:
        raise _wrong(where, expected, value)


def _is_funnel(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        Funnel.parse(value)
    except (ValueError, UnknownNameError):
        return False
    return True


def _wrong(field: str, expected: str, value: object) -> FormatError:
    return FormatError(f"{field}: expected {expected}, got {shorten([value])}", field=field)
