"""Plan for many data sets and print the Markdown table of `docs/planned.md`.

    python tools/plan_tables.py cranfield npl … --model default --model minilm > table.md

Each data set is planned for by fidelity and, where it has judgments, by relevance. What is refused
for want of queries stands in the table too, with the number that would do.
"""

# a script, not a package
from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from matryo.core import TooFewError
from matryo.encoders import EncodingCache
from matryo.jobs import plan
from matryo.planning import size_in_words

FLOOR = 0.95
MEASURES = ("neighbor_recall@10", "nDCG@10")


def rows(path: Path, model: str, floor: float, cache: EncodingCache) -> Iterator[list[str]]:
    """The rows of one data set and model."""
    for measure in MEASURES:
        head = [path.stem if path.is_file() else path.name, model, measure]
        try:
            found = plan(path, model=model, measure=measure, floor=floor, cache=cache).document
        except TooFewError as error:
            needed = vars(error)["needed"]
            yield [*head, f"cannot tell: {needed} certifying queries needed", *[""] * 4]
            continue
        parts = found["split"]
        queries = f"{parts['order']} + {parts['certify']} + {parts['report']}"
        cheap = found["choices"][0]
        only_full = "@" not in cheap["funnel"] and "," not in cheap["funnel"]
        if only_full and found["needed"]:
            needed = f"cannot tell: about {found['needed']:,} certifying queries"
            yield [*head, needed, queries, *[""] * 3]
            continue
        cost = cheap["cost"]
        yield [
            *head,
            f"`{re.sub(r'margin.*', 'margin[…]', cheap['funnel'])}`",
            queries,
            f"{cheap['kept']:.3f} ({cheap['low']:.3f}–{cheap['high']:.3f})",
            size_in_words(cost["bytes_read"]),
            size_in_words(cost["ram_bytes"]),
        ]


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="+", type=Path, help="benchmark folders or files of pairs")
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--floor", type=float, default=FLOOR)
    arguments = parser.parse_args()
    print("| data | model | measure | cheap choice | queries | kept there | read | RAM |")
    print("|---|---|---|---|---|---|---:|---:|")
    with EncodingCache() as cache:
        for path in arguments.data:
            for model in arguments.model:
                for row in rows(path, model, arguments.floor, cache):
                    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
