"""The verdict of a measurement in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matryo.evaluation import Curves, Record, knee

_ABOUT = {
    "neighbor_recall": ("fidelity", "share of the full-width nearest neighbours that is found"),
    "nDCG": ("relevance", "gain of relevant documents, discounted by rank"),
    "R": ("relevance", "share of relevant documents found"),
    "RR": ("relevance", "one over the rank of the first relevant document"),
    "P": ("relevance", "share of found documents that are relevant"),
    "AP": ("relevance", "average precision"),
    "Success": ("relevance", "share of queries with a relevant document found"),
    "spearman": ("similarity", "rank correlation of scores with judgments"),
    "accuracy_knn": ("classification", "accuracy of the nearest neighbours' vote"),
    "accuracy_probe": ("classification", "accuracy of a linear probe"),
}
# Relevance and labels say more than fidelity, so the first of these that was measured leads.
_LEADING = ("nDCG", "R", "RR", "spearman", "accuracy_knn", "neighbor_recall")


def summarize(
    curves: Curves, about: Mapping[str, Any], settings: Mapping[str, Any], *, drawn: bool
) -> dict[str, Any]:
    """The entries `verdict` and `measures` of the results document."""
    names = list(dict.fromkeys(record.measure for record in curves.records))
    primary = min(names, key=_place)
    rows = [r for r in curves.records if r.measure == primary and r.method == "cut"]
    smaller = [r for r in rows if r.verdict != "reference"]
    best = _cheapest([r for r in smaller if r.verdict == "keeps"])
    bend = knee([r for r in rows if r.precision == "float32"])
    return {
        "verdict": {
            "headline": _headline(smaller, best, primary, settings, drawn=drawn),
            "sentences": _sentences(curves, smaller, primary, about),
            "recommended": _point(best),
            "knee": _point(bend),
        },
        "measures": [
            {
                "name": name,
                "kind": _ABOUT[_kind(name)][0],
                "about": _ABOUT[_kind(name)][1],
                "primary": name == primary,
            }
            for name in names
        ],
    }


def _headline(
    rows: list[Record],
    best: Record | None,
    primary: str,
    settings: Mapping[str, Any],
    *,
    drawn: bool,
) -> str:
    floor = f"{settings['floor']:.1%}".replace(".0%", "%")
    if not rows:
        return f"Only the full width was measured: {primary} has nothing to be compared with."
    if drawn:
        good = _cheapest([r for r in rows if r.kept is not None and r.kept >= settings["floor"]])
        figure = (
            f"{name_level(good)} keep {good.kept:.1%} of full-width {primary} on these rows"
            if good and good.kept is not None
            else f"no smaller size keeps {floor} of full-width {primary} on these rows"
        )
        return f"{figure[0].upper()}{figure[1:]}; queries drawn from the corpus, so no promise."
    if best is not None:
        full = max(rows, key=lambda r: r.bytes_per_vector * (r.precision == "float32"))
        whole = max(full.bytes_per_vector, *(4 * r.dim for r in rows))
        ratio = whole / best.bytes_per_vector
        return (
            f"{name_level(best)} keep at least {floor} of full-width {primary}"
            f"{f', in {ratio:.0f} times fewer bytes' if ratio > 1.5 else ''}."
        )
    open_rows = [r for r in rows if r.verdict == "cannot tell"]
    if open_rows:
        asked = [r.needed for r in open_rows if r.needed]
        more = f" About {min(asked):,} queries would begin to tell." if asked else ""
        return (
            f"Cannot tell which smaller size keeps {floor} of full-width {primary} from "
            f"{open_rows[0].n:,} queries.{more}"
        )
    return f"No smaller size keeps {floor} of full-width {primary}: stay at the full width."


def _sentences(
    curves: Curves, rows: list[Record], primary: str, about: Mapping[str, Any]
) -> list[str]:
    sentences = []
    bad = [r for r in rows if r.verdict == "below"]
    unsure = [r for r in rows if r.verdict == "cannot tell"]
    if bad:
        best_bad = max(bad, key=lambda r: r.kept or 0)
        sentences.append(
            f"Below the floor: {len(bad)} of {len(rows)} rows; the best of them is "
            f"{name_level(best_bad)}, which keep {best_bad.kept:.1%}."
        )
    if unsure:
        named = ", ".join(
            f"{name_level(r)} (about {r.needed:,} queries)" if r.needed else name_level(r)
            for r in unsure[:4]
        )
        more = f" and {len(unsure) - 4} more" if len(unsure) > 4 else ""
        sentences.append(f"Cannot tell yet: {named}{more}.")
    compared = [row for row in curves.comparisons if row["measure"] == primary]
    if any(row["a"] == "cut" for row in compared):
        sentences.append(_nested(curves, primary))
    turned = [row for row in compared if row["a"] == "rotation"]
    if turned:
        better = [row["dim"] for row in turned if row["verdict"] == "rotation"]
        worse = [row["dim"] for row in turned if row["verdict"] == "cut"]
        sentences.append(
            f"A rotation fitted on unlabelled rows does better than the plain cut at "
            f"{_dims(better)}: it costs no new encoding."
            if better
            else f"A rotation does worse than the plain cut at {_dims(worse)}."
            if worse
            else "A rotation is not shown to do better than the plain cut at any size."
        )
    if about["origin"] == "synthetic":
        sentences.append("These data are synthetic: figures on real data may differ.")
    return sentences


def _nested(curves: Curves, primary: str) -> str:
    """Whether the first numbers beat random ones, on the leading measure or on another."""
    better: dict[str, list[int]] = {}
    for row in curves.comparisons:
        if row["a"] == row["verdict"] == "cut":
            better.setdefault(row["measure"], []).append(row["dim"])
    if primary in better:
        return (
            f"The first numbers beat random ones at {_dims(better[primary])}: the dimensions are "
            "ordered."
        )
    if better:
        measure, dims = max(better.items(), key=lambda item: len(item[1]))
        return (
            f"The first numbers are not shown to beat random ones on {primary}, but they do on "
            f"{measure} at {_dims(dims)}."
        )
    return (
        "At no size are the first numbers shown to beat random ones: nothing here says that this "
        "model is nested."
    )


def name_level(record: Record) -> str:
    """A size and precision in words, with its bytes."""
    plain = "" if record.precision == "float32" else f" as {record.precision}"
    return f"{record.dim} numbers{plain} ({record.bytes_per_vector:,} bytes)"


def _cheapest(rows: list[Record]) -> Record | None:
    return min(rows, key=lambda r: (r.bytes_per_vector, r.dim), default=None)


def _point(record: Record | None) -> dict[str, Any] | None:
    return {"dim": record.dim, "precision": record.precision} if record else None


def _dims(dims: list[int]) -> str:
    numbers = [str(dim) for dim in sorted(dims)]
    return numbers[0] if len(numbers) == 1 else f"{', '.join(numbers[:-1])} and {numbers[-1]}"


def _kind(name: str) -> str:
    return name.partition("@")[0]


def _place(name: str) -> int:
    kind = _kind(name)
    return _LEADING.index(kind) if kind in _LEADING else len(_LEADING)
