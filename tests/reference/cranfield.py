"""Cranfield measured a second time, by the plainest means, to hold matryo's figures against.

Nothing of matryo is imported: numpy makes whole float64 score matrices, pytrec_eval gets the
complete run of every query. Vectors come from .npy files, or from wordllama's own API.

    python tests/reference/cranfield.py FOLDER [--documents d.npy --queries q.npy] [--dims 16,32]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytrec_eval

K = 10
MEASURES = {"nDCG@10": "ndcg_cut_10", "R@10": "recall_10", "RR@10": "recip_rank"}
# of packed formats the largest odd integer of a document, the width of a level as a share of the
# root mean square of its row, and the largest integer of a query
PACKED = {"int4": (15, 0.335, 127), "int2": (3, 0.9957, 127), "binary": (1, None, 63)}
PRECISIONS = ("float32", *PACKED)


def read_texts(path):
    """Ids and texts, title before text; what has neither is left out."""
    records = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    pairs = [(r["_id"], (r.get("title", "") + " " + r["text"]).strip()) for r in records]
    kept = [(name, text) for name, text in pairs if text]
    return [name for name, _ in kept], [text for _, text in kept]


def read_qrels(path, documents):
    """Judgments of the documents that are there."""
    qrels = {}
    for line in Path(path).read_text("utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        if document in documents:
            qrels.setdefault(query, {})[document] = int(score)
    return qrels


def encode_wordllama(texts):
    """Whole vectors by wordllama's own API, text by text so that nothing is padded."""
    import wordllama

    model = wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, trunc_dim=None, disable_download=True
    )
    return np.concatenate([model.embed([text]) for text in texts])


def unit(vectors, dim):
    prefix = vectors[:, :dim].astype(np.float64)
    return prefix / np.linalg.norm(prefix, axis=1, keepdims=True)


def score_matrix(queries, documents, dim, precision):
    """Cosines of prefixes; packed documents and the queries that meet them are integers."""
    # trec_eval holds scores as float32; what is tied there is tied here
    if precision == "float32":
        return (unit(queries, dim) @ unit(documents, dim).T).astype(np.float32)
    most, width, largest = PACKED[precision]
    stored, asked = (unit(v, dim).astype(np.float32).astype(float) for v in (documents, queries))
    if width is None:
        odd = np.where(stored > 0, 1.0, -1.0)
    else:
        levels = width * np.sqrt(np.square(stored).mean(axis=1, keepdims=True))
        odd = np.clip(2 * np.floor(stored / levels) + 1, -most, most)
    steps = (np.abs(asked).max(axis=1, keepdims=True) / largest).astype(np.float32)
    sums = np.rint(asked / steps) @ odd.T
    lengths = np.sqrt(np.square(odd).sum(axis=1).astype(np.float32))
    return sums.astype(np.float32) * (np.float32(1) / lengths) * steps


def measure(folder, documents, queries, dims, precisions=PRECISIONS):
    """Mean value of every measure, by (dim, precision, measure)."""
    folder = Path(folder)
    document_ids, _ = read_texts(folder / "corpus.jsonl")
    query_ids, _ = read_texts(folder / "queries.jsonl")
    qrels = read_qrels(folder / "qrels.tsv", set(document_ids))
    judged = [i for i, q in enumerate(query_ids) if any(s > 0 for s in qrels.get(q, {}).values())]
    query_ids, queries = [query_ids[i] for i in judged], queries[judged]
    # trec_eval puts the larger id first among equal scores
    by_id = np.array(sorted(range(len(document_ids)), key=document_ids.__getitem__, reverse=True))
    full = score_matrix(queries, documents, documents.shape[1], "float32")
    tenth = np.sort(full, axis=1)[:, -K]
    evaluator = pytrec_eval.RelevanceEvaluator(
        {q: qrels[q] for q in query_ids}, {"ndcg_cut.10", "recall.10", "recip_rank"}
    )
    values = {}
    for dim in dims:
        for precision in precisions:
            scores = score_matrix(queries, documents, dim, precision)
            run = {
                query: dict(zip(document_ids, map(float, row), strict=True))
                for query, row in zip(query_ids, scores, strict=True)
            }
            answers = evaluator.evaluate(run)
            for name, theirs in MEASURES.items():
                found = np.array([answers[query][theirs] for query in query_ids])
                if name == "RR@10":
                    found[found < 1 / K - 1e-9] = 0
                values[dim, precision, name] = float(found.mean())
            top = by_id[np.argsort(-scores[:, by_id], axis=1, kind="stable")[:, :K]]
            good = np.take_along_axis(full, top, axis=1) >= tenth[:, None]
            values[dim, precision, "neighbor_recall@10"] = float(good.mean())
    return values


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--documents", type=Path)
    options.add_argument("--queries", type=Path)
    options.add_argument("--dims", default="16,32,64,128,256")
    given = options.parse_args()
    vectors = [
        np.load(file) if file else encode_wordllama(read_texts(given.folder / name)[1])
        for file, name in (
            (given.documents, "corpus.jsonl"),
            (given.queries, "queries.jsonl"),
        )
    ]
    dims = [int(dim) for dim in given.dims.split(",")]
    for (dim, precision, name), value in measure(given.folder, *vectors, dims).items():
        sys.stdout.write(f"{dim}\t{precision}\t{name}\t{value:.9f}\n")


if __name__ == "__main__":
    main()
