"""Build the demo's data set from a table of WordNet glosses.

    python tools/build_demo_data.py glosses.tsv.gz src/matryo/data/wordnet-demo.tsv.xz

A document is a dictionary entry, "lemma, lemma: definition"; a query is an example sentence, and
the one relevant document is the entry that it illustrates. Queries and documents are drawn at
random with a fixed seed, and the same input gives the same bytes.

The input is gzip TSV, UTF-8, with the columns `synset`, `lemmas`, `definition` and `examples`;
lemmas and examples are split by `|`. The output is xz TSV, UTF-8, without a header, with the
columns `kind` ("document" or "query"), `id`, `text` and `relevant` (for a query the id of its
document, for a document empty): first all documents, then all queries, each sorted by id.
"""

# a script, not a package
from __future__ import annotations

import argparse
import csv
import gzip
import lzma
import random
from collections import Counter
from pathlib import Path

DOCUMENTS = 25_000
QUERIES = 1_500
SEED = 7
# The container's settings are part of the bytes, so they are written out.
XZ = {"format": lzma.FORMAT_XZ, "check": lzma.CHECK_CRC64, "preset": 9 | lzma.PRESET_EXTREME}


def build(glosses: Path, *, seed: int = SEED) -> bytes:
    """The packed demo data set, made from the table of glosses at `glosses`."""
    with gzip.open(glosses, "rt", encoding="utf-8", newline="") as stream:
        synsets = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    rng = random.Random(seed)  # a draw of examples, no secret
    # Example sentences that illustrate several synsets have no single right answer.
    seen = Counter(_first_example(synset) for synset in synsets)
    askable = [s for s in synsets if s["examples"] and seen[_first_example(s)] == 1]
    asked = rng.sample(askable, QUERIES)
    taken = {synset["synset"] for synset in asked}
    others = [synset for synset in synsets if synset["synset"] not in taken]
    entries = asked + rng.sample(others, DOCUMENTS - QUERIES)
    lines = [
        *sorted(f"document\t{s['synset']}\t{_entry(s)}\t" for s in entries),
        *sorted(f"query\tq-{s['synset']}\t{_first_example(s)}\t{s['synset']}" for s in asked),
    ]
    return lzma.compress("".join(f"{line}\n" for line in lines).encode(), **XZ)


def _entry(synset: dict[str, str]) -> str:
    return f"{synset['lemmas'].replace('|', ', ')}: {synset['definition']}"


def _first_example(synset: dict[str, str]) -> str:
    return synset["examples"].split("|")[0]


def main() -> None:
    """Read the two paths from the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("glosses", type=Path, help="gzip TSV of WordNet glosses")
    parser.add_argument("target", type=Path, help="file to write")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()

    packed = build(arguments.glosses, seed=arguments.seed)
    arguments.target.write_bytes(packed)
    print(f"{arguments.target}: {len(packed):,} bytes")


if __name__ == "__main__":
    main()
