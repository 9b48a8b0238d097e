"""Small data that jobs can measure in a moment, and encoders that need no model."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from matryo.core import Space
from matryo.encoders import Function

WIDTH = 32


def vector_of(text):
    """A vector that depends on the words of a text, so that texts with shared words are near."""
    total = np.zeros(WIDTH)
    for word in text.split():
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        total += np.random.default_rng(seed).standard_normal(WIDTH)
    return total


class Counting:
    """A function over texts that counts how many it was given."""

    def __init__(self):
        self.count = 0

    def __call__(self, texts):
        self.count += len(texts)
        return np.array([vector_of(text) for text in texts], dtype=np.float32)


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def words(counting):
    """An encoder of 32 numbers, trained at 8, 16 and 32."""
    return Function(counting, Space("words", WIDTH, revision="1"), dims=(8, 16, 32))


@pytest.fixture
def corpus():
    return np.random.default_rng(1).standard_normal((400, WIDTH)).astype(np.float32)


@pytest.fixture
def queries():
    return np.random.default_rng(2).standard_normal((60, WIDTH)).astype(np.float32)


@pytest.fixture
def write_lines(tmp_path):
    """Write JSON objects, or rows of fields with tabs, one a line; folders are made."""

    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row) if isinstance(row, dict) else "\t".join(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path

    return write


@pytest.fixture
def beir(write_lines, tmp_path):
    """Make a tiny BEIR folder of 120 documents and 40 queries, each with one answer."""

    def make(*qrels):
        documents = [
            {"_id": f"d{i}", "title": f"thing{i}", "text": f"colour{i % 7} shape{i % 11}"}
            for i in range(120)
        ]
        asked = [{"_id": f"q{i}", "text": f"thing{i} please"} for i in range(40)]
        write_lines("beir/corpus.jsonl", documents)
        write_lines("beir/queries.jsonl", asked)
        for name in qrels or ("qrels.tsv",):
            rows = [(f"q{i}", f"d{i}", "1") for i in range(40)]
            write_lines(f"beir/{name}", [("query-id", "corpus-id", "score"), *rows])
        return tmp_path / "beir"

    return make


@pytest.fixture
def on_a_full_disk():
    """Run Python code in a process of its own in which no file may grow beyond so many bytes."""
    pytest.importorskip("resource")

    def run(code, *args, limit):
        limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
        ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
        return subprocess.run(
            [sys.executable, "-B", "-c", f"{limited}\n{ignore}\n{code}", *map(str, args)],
            capture_output=True,
            text=True,
            check=False,
        )

    return run
