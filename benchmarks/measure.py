"""How much measuring every size costs, beside the ways it is done without matryo.

python benchmarks/measure.py [--quick] --json out.json

Every ratio is of medians of interleaved runs in this one process. The large corpus is synthetic
(clusters in 32 latent dimensions with falling variance); the comparison with sentence-transformers
runs on real texts, the WordNet definitions that ship with matryo. Peers need the extra `dev`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import Nesting, Precision
from matryo.evaluation import Grid, Rules, measure_search
from matryo.search import Level, View, scan

DIMS = (8, 16, 32, 64, 128, 256, 512, 768)
K = 10
Floats = NDArray[np.float32]


def make_vectors(n: int, n_queries: int, dim: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Synthetic documents and queries: clusters seen through a random net, plus noise."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((3000, 32), dtype=np.float32)
    net = rng.standard_normal((32, dim), dtype=np.float32) / 4
    fall = ((np.arange(dim) + 8.0) ** -0.35).astype(np.float32)

    def draw(rows: int) -> Floats:
        out = np.empty((rows, dim), np.float32)
        for at in range(0, rows, 50_000):
            m = min(50_000, rows - at)
            latent = centres[rng.integers(0, 3000, m)]
            latent = latent + 0.4 * rng.standard_normal((m, 32), dtype=np.float32)
            noise = 0.2 * rng.standard_normal((m, dim), dtype=np.float32)
            out[at : at + m] = (np.tanh(latent @ net) + noise) * fall
        return out

    return draw(n), draw(n_queries)


def unit(vectors: Floats) -> Floats:
    """Rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def numpy_blocked(queries: Floats, corpus: Floats, block: int = 8192) -> NDArray[np.int64]:
    """Exact top 10 by blocked products and a partition, as one writes it by hand."""
    scores = np.full((len(queries), K), -np.inf, np.float32)
    rows = np.zeros((len(queries), K), np.int64)
    for at in range(0, len(corpus), block):
        product = queries @ corpus[at : at + block].T
        best = np.argpartition(product, -K, axis=1)[:, -K:]
        scores = np.concatenate([scores, np.take_along_axis(product, best, 1)], 1)
        rows = np.concatenate([rows, best + at], 1)
        kept = np.argpartition(scores, -K, axis=1)[:, -K:]
        scores, rows = np.take_along_axis(scores, kept, 1), np.take_along_axis(rows, kept, 1)
    return np.take_along_axis(rows, np.argsort(-scores, axis=1), 1)


def faiss_flat(queries: Floats, corpus: Floats) -> NDArray[np.int64]:
    """Exact top 10 by FAISS; adding is part of it, since it copies."""
    import faiss

    index = faiss.IndexFlatIP(corpus.shape[1])
    index.add(corpus)
    return np.asarray(index.search(queries, K)[1])


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns; one uncounted round first."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def one_pass_rows(quick: bool) -> list[dict[str, Any]]:
    """All sizes in one pass, beside one exact full-width pass and beside a loop over the sizes."""
    n, n_queries = (30_000, 300) if quick else (200_000, 1000)
    corpus, queries = make_vectors(n, n_queries, DIMS[-1])
    ready, asked = unit(corpus), unit(queries)
    levels = [Level(dim) for dim in DIMS]

    def one_pass() -> dict[Any, Any]:
        return scan(queries, corpus, {"cut": View(levels)}, k=K)

    peers = {"numpy": numpy_blocked, "faiss": faiss_flat}
    calls: dict[str, Callable[[], object]] = {
        name: (lambda search=search: search(asked, ready)) for name, search in peers.items()
    }
    calls["one pass"] = one_pass
    calls["matryo, full width"] = lambda: scan(queries, corpus, {"c": View(levels[-1:])}, k=K)

    def loop(search: Callable[[Floats, Floats], object]) -> None:
        for dim in DIMS:
            search(unit(queries[:, :dim]), unit(corpus[:, :dim]))

    repeats = 2 if quick else 5
    seconds = interleaved(calls, repeats)
    fastest = min(peers, key=lambda name: seconds[name])
    loops = interleaved(
        {"one pass": one_pass, "loop": lambda: loop(peers[fastest])}, max(2, repeats - 2)
    )
    exact, found = numpy_blocked(asked, ready), one_pass()["cut", levels[-1]].rows
    recall = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(exact, found, strict=True)]))
    setting = f"{n} x {DIMS[-1]}, {n_queries} queries"
    return [
        {
            "name": "all sizes, float32, one pass",
            "value": seconds["one pass"],
            "unit": "s",
            "versus": f"one exact full-width top-10 pass by {fastest}: "
            f"{seconds[fastest]:.3f} s ({setting})",
            "ratio": seconds["one pass"] / seconds[fastest],
            "neighbor_recall": recall,
        },
        {
            "name": "loop over the sizes",
            "value": loops["loop"],
            "unit": "s",
            "versus": f"all sizes in one pass: {loops['one pass']:.3f} s ({setting})",
            "ratio": loops["loop"] / loops["one pass"],
            "neighbor_recall": recall,
        },
        {
            "name": "full width only, this library",
            "value": seconds["matryo, full width"],
            "unit": "s",
            "versus": f"{fastest}: {seconds[fastest]:.3f} s ({setting})",
            "ratio": seconds["matryo, full width"] / seconds[fastest],
            "neighbor_recall": recall,
        },
    ]


def evaluator_rows(quick: bool) -> list[dict[str, Any]]:
    """Beside sentence-transformers' evaluator per size, on the same texts and model."""
    from importlib.util import find_spec

    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import (
        InformationRetrievalEvaluator,
    )
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    from matryo.jobs import demo_data

    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise SystemExit("this benchmark needs the extra: pip install 'matryo[dev]'")
    root = Path(spec.origin).parent
    table = load_file(root / "weights/l2_supercat_256.safetensors")["embedding.weight"]
    tokenizer = Tokenizer.from_file(str(root / "tokenizers/l2_supercat_tokenizer_config.json"))
    static = StaticEmbedding(tokenizer, embedding_weights=table.astype("float32"))
    model = SentenceTransformer(modules=[static], device="cpu")
    data, dims = demo_data(), (16, 32, 64, 128, 256)
    n, n_queries = (1500, 100) if quick else (25_000, 1500)
    relevant = {next(iter(found)) for found in list(data.qrels.values())[:n_queries]}
    others = [i for i in data.documents.ids if i not in relevant]
    kept = relevant | set(others[: max(0, n - len(relevant))])
    pairs = zip(data.documents.ids, data.documents.texts, strict=True)
    corpus = {str(i): text for i, text in pairs if i in kept}
    queries = dict(zip(data.queries.ids[:n_queries], data.queries.texts, strict=False))
    qrels = {q: set(data.qrels[q]) for q in queries}
    encoding = {"seconds": 0.0}
    plain = model.encode

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return plain(*args, **kwargs)
        finally:
            encoding["seconds"] += time.perf_counter() - started

    model.encode = timed
    cutoffs = {"mrr_at_k": [10], "ndcg_at_k": [10], "accuracy_at_k": [10], "map_at_k": [10]}

    def evaluators() -> None:
        for dim in dims:
            InformationRetrievalEvaluator(
                queries, corpus, qrels, truncate_dim=dim, precision_recall_at_k=[10], **cutoffs
            )(model)

    def once() -> None:
        documents = np.asarray(timed(list(corpus.values())), np.float32)
        asked = np.asarray(timed(list(queries.values())), np.float32)
        judged = (list(queries), list(corpus), {q: dict.fromkeys(d, 1) for q, d in qrels.items()})
        grid = Grid(Nesting(dims), [Precision.FLOAT32], baselines=False)
        rules = Rules(0.98, 0.95, "real")
        names = ["nDCG@10", "R@10", "RR@10"]
        measure_search(asked, documents, grid, rules, judged=judged, names=names)

    totals: dict[str, list[float]] = {"peer": [], "peer alone": [], "ours": [], "ours alone": []}
    for turn in range(2 if quick else 4):
        for name, call in (("peer", evaluators), ("ours", once)):
            encoding["seconds"] = 0.0
            started = time.perf_counter()
            call()
            seconds = time.perf_counter() - started
            if turn:
                totals[name].append(seconds)
                totals[f"{name} alone"].append(seconds - encoding["seconds"])
    middle = {name: float(np.median(values)) for name, values in totals.items()}
    setting = f"{len(corpus)} texts, {len(queries)} queries, K = {len(dims)} sizes"
    return [
        {
            "name": f"sentence-transformers evaluator per size, {label}",
            "value": middle[f"peer{part}"],
            "unit": "s",
            "versus": f"one measurement with intervals: {middle[f'ours{part}']:.3f} s ({setting})",
            "ratio": middle[f"peer{part}"] / middle[f"ours{part}"],
            "neighbor_recall": None,
        }
        for label, part in (("with encoding", ""), ("without encoding", " alone"))
    ]


_CHILD = """
import sys
from matryo.jobs import measure
measure(sys.argv[1], queries=sys.argv[2], dims={dims!r}, precisions="float32,int8,binary",
        synthetic=True)
"""


def memory_rows(quick: bool) -> list[dict[str, Any]]:
    """Largest anonymous memory while a corpus on disk is measured (mapped pages not counted)."""
    n, n_queries = (10_000, 100) if quick else (1_000_000, 1000)
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "corpus.npy", Path(folder) / "queries.npy"
        stored = np.lib.format.open_memmap(paths[0], "w+", np.float32, (n, DIMS[-1]))
        for at in range(0, n, 50_000):
            rows = min(50_000, n - at)
            stored[at : at + rows], queries = make_vectors(rows, n_queries, DIMS[-1], seed=at)
        stored.flush()
        del stored
        np.save(paths[1], queries)
        code = _CHILD.format(dims=DIMS)
        child = subprocess.Popen([sys.executable, "-c", code, *map(str, paths)])
        peak, started = [0], time.perf_counter()

        def watch() -> None:
            while child.poll() is None:
                try:
                    status = Path(f"/proc/{child.pid}/status").read_text()
                except FileNotFoundError:
                    return
                line = next((x for x in status.splitlines() if x.startswith("RssAnon")), "0 0")
                peak[0] = max(peak[0], int(line.split()[1]) * 1024)
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code_out = child.wait()
        watcher.join()
        seconds = time.perf_counter() - started
        if code_out:
            raise SystemExit(f"measuring from disk failed with exit code {code_out}")
        size = paths[0].stat().st_size
    return [
        {
            "name": "anonymous memory, corpus on disk",
            "value": peak[0],
            "unit": "bytes",
            "versus": f"the file: {size} bytes ({n} x {DIMS[-1]}, {n_queries} queries, "
            f"3 precisions, baselines, {seconds:.0f} s)",
            "ratio": peak[0] / size,
            "neighbor_recall": None,
        }
    ]


def demo_rows() -> list[dict[str, Any]]:
    """The demo as a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "matryo", "demo", "--out", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
    return [
        {
            "name": "matryo demo",
            "value": seconds,
            "unit": "s",
            "versus": "60 s",
            "ratio": seconds / 60,
            "neighbor_recall": None,
        }
    ]


def main() -> None:
    """Run everything and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under 45 s")
    parser.add_argument("--json", required=True, type=Path, help="file to write")
    options = parser.parse_args()
    results = [
        *one_pass_rows(options.quick),
        *evaluator_rows(options.quick),
        *memory_rows(options.quick),
        *demo_rows(),
    ]
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    )
    document = {
        "benchmark": "measure",
        "commit": commit or "unknown",
        "machine": f"{machine}, numpy {np.__version__}",
        "data": "synthetic",
        "results": results,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    for row in results:
        print(f"{row['name']}: {row['value']:.4g} {row['unit']}, ratio {row['ratio']:.3f}")
        print(f"    versus {row['versus']}")


if __name__ == "__main__":
    main()
