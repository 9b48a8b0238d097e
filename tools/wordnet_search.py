"""Make a benchmark folder of WordNet for `matryo measure` and `matryo plan`.

    python tools/wordnet_search.py glosses.tsv.gz wordnet

The input is a table with the columns `lemmas`, `definition` and `examples`, the latter two lists
separated by `|`. Documents are words with their definition; queries are example sentences, each of
which has its own entry as the one relevant document.
"""

# a script, not a package
from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path

import numpy as np

DOCUMENTS, QUERIES = 30_000, 5_000


def main() -> None:
    """Read the two paths from the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("glosses", type=Path, help="table of entries, .tsv.gz")
    parser.add_argument("target", type=Path, help="folder to make")
    arguments = parser.parse_args()

    with gzip.open(arguments.glosses, "rt", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    rng = np.random.default_rng(0)
    examples = [(i, text) for i, row in enumerate(rows) for text in row["examples"].split("|")]
    examples = [(i, text) for i, text in examples if text.strip()]
    asked = [examples[n] for n in np.sort(rng.choice(len(examples), QUERIES, replace=False))]
    wanted = np.unique([i for i, _ in asked])
    others = np.setdiff1d(np.arange(len(rows)), wanted)
    kept = np.sort([*wanted, *rng.choice(others, DOCUMENTS - len(wanted), replace=False)])
    documents = [
        {
            "_id": str(i),
            "text": f"{rows[i]['lemmas'].replace('|', ', ')}: {rows[i]['definition']}",
        }
        for i in kept
    ]
    queries = [{"_id": f"q{n}", "text": text} for n, (_, text) in enumerate(asked)]
    arguments.target.mkdir()
    for name, records in (("corpus", documents), ("queries", queries)):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (arguments.target / f"{name}.jsonl").write_text(text, "utf-8")
    judged = "".join(f"q{n}\t{i}\t1\n" for n, (i, _) in enumerate(asked))
    (arguments.target / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", "utf-8")
    print(f"{arguments.target}: {len(documents):,} documents, {len(queries):,} queries")


if __name__ == "__main__":
    main()
