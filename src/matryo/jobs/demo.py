"""The main job on data that ships with matryo: WordNet definitions and example sentences."""

from __future__ import annotations

import lzma
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import Encoder, Funnel, Side
from matryo.encoders import EncodingCache, encode_texts, encoder
from matryo.jobs.measuring import measure
from matryo.jobs.opening import Progress
from matryo.readers import RetrievalData, Texts
from matryo.search import FunnelSearch

FUNNEL = "64:200,256:10"
DIMS = (16, 32, 64, 128, 256)
PRECISIONS = ("float32", "int8", "int4", "binary")


def demo_data() -> RetrievalData:
    """25,000 WordNet entries ("word, word: definition"), and 1,500 example sentences of theirs.

    WordNet 3.0, copyright 2006 by Princeton University; its notice lies beside the data.
    """
    packed = resources.files("matryo").joinpath("data/wordnet-demo.tsv.xz").read_bytes()
    rows = [line.split("\t") for line in lzma.decompress(packed).decode("utf-8").splitlines()]
    documents = [(name, text) for kind, name, text, _ in rows if kind == "document"]
    queries = [(name, text, right) for kind, name, text, right in rows if kind == "query"]
    return RetrievalData(
        name="WordNet 3.0 definitions",
        documents=Texts([d[0] for d in documents], [d[1] for d in documents], [], "documents"),
        queries=Texts([q[0] for q in queries], [q[1] for q in queries], [], "queries"),
        qrels={name: {right: 1} for name, _, right in queries},
        left_out_queries=[],
        left_out_judgments=0,
    )


def demo(*, floor: float = 0.95, progress: Progress | None = None) -> dict[str, Any]:
    """Encode, measure and search the demo data with the default encoder.

    Args:
        floor: Share of the full-width nDCG@10 to keep.
        progress: As for `measure`.

    Returns:
        The results document, with the texts of three queries and how a funnel answered them.
    """
    data, model = demo_data(), encoder("default")
    # one temporary cache: what is measured is encoded once, and used again for the three queries
    with tempfile.TemporaryDirectory() as folder, EncodingCache(Path(folder) / "demo") as cache:
        results = measure(
            data,
            model=model,
            dims=DIMS,
            precisions=PRECISIONS,
            floor=floor,
            cache=cache,
            progress=progress,
        )
        results["funnel"] = _side_by_side(data, model, cache)
    return results


def _side_by_side(data: RetrievalData, model: Encoder, cache: EncodingCache) -> dict[str, Any]:
    """Three queries at full width and by a funnel, with time and bytes read."""
    documents = encode_texts(model, data.documents.texts, side=Side.DOCUMENT, cache=cache)
    funnel = Funnel.parse(FUNNEL)
    full = Funnel((funnel.stages[-1],))
    engines = {"full": FunnelSearch(documents, full), "funnel": FunnelSearch(documents, funnel)}
    picked = [0, len(data.queries.ids) // 2, len(data.queries.ids) - 1]
    texts = [data.queries.texts[i] for i in picked]
    queries = encode_texts(model, texts, side=Side.QUERY, cache=cache)
    shown: list[dict[str, Any]] = []
    for i, text, query in zip(picked, texts, queries, strict=True):
        answers = {name: _timed(engine, query, data) for name, engine in engines.items()}
        overlap = len(set(answers["full"]["ids"]) & set(answers["funnel"]["ids"]))
        shown.append({"id": data.queries.ids[i], "text": text, **answers, "overlap": overlap})
    by_id = dict(zip(data.documents.ids, data.documents.texts, strict=True))
    named = {i for row in shown for side in ("full", "funnel") for i in row[side]["ids"]}
    return {
        "text": FUNNEL,
        "queries": shown,
        "documents": {str(i): by_id[i] for i in sorted(named, key=str)},
    }


def _timed(
    engine: FunnelSearch, query: NDArray[np.float32], data: RetrievalData, repeats: int = 21
) -> dict[str, Any]:
    """The answer of one engine, with the median time of several runs."""
    answer = engine.search(query)
    times = [_seconds(lambda: engine.search(query)) for _ in range(repeats)]
    return {
        "ids": [data.documents.ids[row] for row in answer.rows],
        "ms": round(float(np.median(times)) * 1000, 3),
        "bytes": answer.bytes_read,
    }


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def without_text(results: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a results document that holds ids and figures only."""
    copy = dict(results)
    if copy.get("funnel"):
        queries = [{**row, "text": None} for row in copy["funnel"]["queries"]]
        copy["funnel"] = {**copy["funnel"], "queries": queries, "documents": None}
    return copy
