"""Compare two encoders at every size on several data sets, with intervals that hold together.

    python tools/compare_default_model.py default static:model --data stsb cranfield npl banking77

Prints a Markdown table, in points of 100, and where the second encoder is non-inferior: its
difference from the first is above minus `--margin` points by the interval. All intervals, of every
data set and size, hold together with 95 % confidence.
"""

# a script, not a package
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from matryo.encoders import EncodingCache
from matryo.jobs import diff, measure

DIMS = "16,32,64,128,256"
MEASURES = ("spearman", "nDCG@10", "accuracy_knn")
CONFIDENCE = 0.95


def compare(first: Any, second: Any, data: list[Path], cache: EncodingCache | None) -> list[Any]:
    """`(name, row)` of every data set and size; rows are those of `diff`."""
    together = 1 - (1 - CONFIDENCE) / len(data)
    found = []
    for path in data:
        runs = [
            measure(
                path,
                model=model,
                dims=DIMS,
                precisions="float32",
                relevance=("nDCG@10",),
                baselines=False,
                cache=cache,
            )
            for model in (first, second)
        ]
        rows = diff(*runs, confidence=together)["rows"]
        found += [(path.name, row) for row in rows if row["measure"] in MEASURES]
    return found


def line(name: str, row: dict[str, Any], margin: float) -> str:
    """One row of the table."""
    before, after, difference, low, high = (
        100 * row[key] for key in ("before", "after", "difference", "low", "high")
    )
    verdict = "better" if low > 0 else "non-inferior" if low > -margin else "not shown"
    cells = [
        name,
        row["measure"],
        str(row["dim"]),
        f"{before:.1f}",
        f"{after:.1f}",
        f"{difference:+.1f} ({low:+.1f} to {high:+.1f})",
        "worse" if high < -margin else verdict,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("first", help="name of an encoder")
    parser.add_argument("second", help="name of an encoder")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="benchmark folders")
    parser.add_argument("--margin", type=float, default=1.0, help="points of 100")
    arguments = parser.parse_args()
    print("| data | measure | numbers | first | second | difference | verdict |")
    print("|---|---|---:|---:|---:|---|---|")
    with EncodingCache() as cache:
        for name, row in compare(arguments.first, arguments.second, arguments.data, cache):
            print(line(name, row, arguments.margin), flush=True)


if __name__ == "__main__":
    main()
