"""Turn results of `matryo measure` into the Markdown tables of `docs/measured.md`.

    python tools/measured_tables.py cranfield.json npl.json > tables.md

Prints one table for each file, of its primary measure: every size and precision of plain cutting,
and the rotation at the sizes where it is shown to do better than the cut. Then two tables over all
files: whether fidelity ranks sizes as relevance does, and what precisions cost.
"""

# a script, not a package
from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

Results = dict[str, Any]
Row = dict[str, Any]
DIMS = (16, 32, 64, 128, 256)  # sizes that every run has


def size_table(results: Results) -> list[str]:
    """Every size of the primary measure, with intervals and verdicts."""
    primary = _primary(results)
    better = {
        row["dim"]
        for row in results["comparisons"]
        if (row["measure"], row["a"], row["verdict"]) == (primary, "rotation", "rotation")
    }
    turned = [r for r in _rows(results, primary, "rotation") if r["dim"] in better]
    lines = _head("dim", "precision", "bytes", primary, "kept", "verdict")
    return lines + [_line(_cells(row)) for row in [*_rows(results, primary, "cut"), *turned]]


def agreement_table(documents: Sequence[Results]) -> list[str]:
    """Whether neighbor_recall puts sizes in the order of the primary measure, in searches."""
    lines = _head("data", "sizes", "Kendall's tau", "pairs in the other order")
    for results in documents:
        primary = _primary(results)
        recall = next((m["name"] for m in results["measures"] if m["kind"] == "fidelity"), primary)
        if recall == primary:
            continue
        a, b = (
            [r["value"] for r in _rows(results, name, "cut") if r["verdict"] != "reference"]
            for name in (recall, primary)
        )
        pairs = [(i, j) for i in range(len(a)) for j in range(i)]
        crossed = sum((a[i] - a[j]) * (b[i] - b[j]) < 0 for i, j in pairs)
        tau = kendalltau(a, b).statistic
        lines.append(_line([title(results), len(a), f"{tau:.2f}", f"{crossed} of {len(pairs)}"]))
    return lines


def precision_table(documents: Sequence[Results]) -> list[str]:
    """Value as int8 and as binary, as shares of the float32 value of the same dim."""
    lines = _head("data", "int8, all sizes", *[f"binary, {dim}" for dim in DIMS], "binary, full")
    for results in documents:
        value = {
            (r["dim"], r["precision"]): r["value"] for r in _rows(results, _primary(results), "cut")
        }
        share = {key: number / value[key[0], "float32"] for key, number in value.items()}
        small = [number for (_, precision), number in share.items() if precision == "int8"]
        full = max(dim for dim, _ in value)
        binary = [f"{share[dim, 'binary']:.3f}" for dim in (*DIMS, full)]
        lines.append(_line([title(results), f"{min(small):.3f} to {max(small):.3f}", *binary]))
    return lines


def title(results: Results) -> str:
    """The data, and the model where the vectors say which."""
    model = f", {results['space']['model']}" if results["space"] else ""
    return f"{results['data']['name']}{model}"


def _primary(results: Results) -> str:
    name: str = next(m["name"] for m in results["measures"] if m["primary"])
    return name


def _rows(results: Results, measure: str, method: str) -> list[Row]:
    return [r for r in results["results"] if (r["measure"], r["method"]) == (measure, method)]


def _cells(row: Row) -> list[str]:
    verdict = f"{row['verdict']} (about {row['needed']:,})" if row["needed"] else row["verdict"]
    return [
        f"{row['dim']}{'*' if row['trained'] is False else ''}",
        row["precision"] + (", rotated" if row["method"] == "rotation" else ""),
        f"{row['bytes_per_vector']:,}",
        f"{row['value']:.3f} ({row['low']:.3f}–{row['high']:.3f})",
        "1"
        if row["verdict"] == "reference"
        else f"{row['kept']:.3f} ({row['kept_low']:.3f}–{row['kept_high']:.3f})",
        verdict,
    ]


def _head(*names: str) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Read the paths from the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON written by matryo measure")
    paths = parser.parse_args().results

    documents = [json.loads(path.read_text("utf-8")) for path in paths]
    parts = [[f"### {title(results)}", "", *size_table(results)] for results in documents]
    parts.append(["### Fidelity and relevance", "", *agreement_table(documents)])
    parts.append(["### Precisions", "", *precision_table(documents)])
    print("\n\n".join("\n".join(part) for part in parts))


if __name__ == "__main__":
    main()
