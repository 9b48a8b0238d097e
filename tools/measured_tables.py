"""Turn results of `matryo measure` into the Markdown tables of `docs/measured.md`.

    python tools/measured_tables.py cranfield.json npl.json > tables.md

Prints one table for each file, of its primary measure. Then three tables over all files: whether
fidelity ranks sizes as relevance does, what precisions cost, and two ways to spend 32 bytes.
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
SAME_BYTES = ((256, "binary"), (32, "int8"))  # 32 bytes each


def size_table(results: Results) -> list[str]:
    """Every size of the primary measure, plainly cut and rotated, with intervals and verdicts."""
    primary = _primary(results)
    lines = [
        _line(("numbers", "format", "bytes", primary, "interval", "kept", "interval", "verdict")),
        "|---:|---|---:|---:|---|---:|---|---|",
    ]
    for row in [*_rows(results, primary, "cut"), *_rows(results, primary, "rotation")]:
        needed = f", needs about {row['needed']:,}" if row["needed"] else ""
        lines.append(
            _line(
                [
                    row["dim"],
                    row["precision"] + (", rotated" if row["method"] == "rotation" else ""),
                    f"{row['bytes_per_vector']:,}",
                    f"{row['value']:.3f}",
                    f"{row['low']:.3f}–{row['high']:.3f}",
                    f"{row['kept']:.3f}",
                    _kept_interval(row),
                    row["verdict"] + needed,
                ]
            )
        )
    return lines


def agreement_table(documents: Sequence[Results]) -> list[str]:
    """Whether fidelity puts sizes in the order of relevance, in data sets that have both.

    int8 is left out: it stands so close beside float32 that their order is chance.
    """
    lines = [
        _line(("data", "rows", "Kendall's tau", "pairs in the other order")),
        "|---|---:|---:|---:|",
    ]
    for results in documents:
        kinds = {m["kind"]: m["name"] for m in results["measures"]}
        if "fidelity" not in kinds or "relevance" not in kinds:
            continue
        fidelity, relevance = (
            [
                row["value"]
                for method in ("cut", "rotation")
                for row in _rows(results, name, method)
                if row["verdict"] != "reference" and row["precision"] != "int8"
            ]
            for name in (kinds["fidelity"], _primary(results))
        )
        pairs = [(i, j) for i in range(len(fidelity)) for j in range(i)]
        crossed = sum(
            (fidelity[i] - fidelity[j]) * (relevance[i] - relevance[j]) < 0 for i, j in pairs
        )
        tau = kendalltau(fidelity, relevance).statistic
        lines.append(
            _line([_title(results), len(fidelity), f"{tau:.2f}", f"{crossed} of {len(pairs)}"])
        )
    return lines


def precision_table(documents: Sequence[Results]) -> list[str]:
    """Value as int8 and as binary, as shares of the float32 value of the same dim."""
    lines = [
        _line(("data", "int8, all sizes", *(f"binary, {dim}" for dim in DIMS), "binary, full")),
        f"|---|---|{'---:|' * (len(DIMS) + 1)}",
    ]
    for results in documents:
        value = {size: row["value"] for size, row in _sizes(results).items()}
        share = {size: number / value[size[0], "float32"] for size, number in value.items()}
        small = [number for (_, precision), number in share.items() if precision == "int8"]
        full = max(dim for dim, _ in value)
        binary = [f"{share[dim, 'binary']:.3f}" for dim in (*DIMS, full)]
        lines.append(_line([_title(results), f"{min(small):.3f} to {max(small):.3f}", *binary]))
    return lines


def same_bytes_table(documents: Sequence[Results]) -> list[str]:
    """Share of the full width kept by two sizes that take the same bytes."""
    names = [f"{dim} numbers as {precision}" for dim, precision in SAME_BYTES]
    lines = [
        _line(("data", names[0], "interval", names[1], "interval")),
        "|---|---:|---|---:|---|",
    ]
    for results in documents:
        rows = [_sizes(results)[size] for size in SAME_BYTES]
        cells = [cell for row in rows for cell in (f"{row['kept']:.3f}", _kept_interval(row))]
        lines.append(_line([_title(results), *cells]))
    return lines


def _title(results: Results) -> str:
    """The data, and the model where the vectors say which."""
    model = f", {results['space']['model']}" if results["space"] else ""
    return f"{results['data']['name']}{model}"


def _primary(results: Results) -> str:
    name: str = next(m["name"] for m in results["measures"] if m["primary"])
    return name


def _rows(results: Results, measure: str, method: str) -> list[Row]:
    return [r for r in results["results"] if (r["measure"], r["method"]) == (measure, method)]


def _sizes(results: Results) -> dict[tuple[int, str], Row]:
    rows = _rows(results, _primary(results), "cut")
    return {(row["dim"], row["precision"]): row for row in rows}


def _kept_interval(row: Row) -> str:
    return f"{row['kept_low']:.3f}–{row['kept_high']:.3f}"


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Read the paths from the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON written by matryo measure")
    paths = parser.parse_args().results

    documents = [json.loads(path.read_text("utf-8")) for path in paths]
    parts = [
        [f"**{_title(results)}: {results['verdict']['headline']}**", "", *size_table(results)]
        for results in documents
    ]
    over_all = (agreement_table, precision_table, same_bytes_table)
    parts += [table(documents) for table in over_all]
    print("\n\n".join("\n".join(part) for part in parts))


if __name__ == "__main__":
    main()
