"""The score rule once more, in a few lines of float64 numpy that share no code with matryo."""

from __future__ import annotations

import numpy as np


def unit(rows):
    """Every row at length 1; rows may be as short as float32 allows."""
    rows = np.asarray(rows, float)
    rows = rows / np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.sqrt(np.square(rows).sum(axis=1, keepdims=True))


def steps(corpus, dim, metric="cosine"):
    """int8 steps of prefixes: the largest absolute value over 127."""
    prefix = stored(corpus, dim, "float32", metric)
    return (np.abs(prefix).max(axis=0).astype(np.float32).astype(float) / 127).astype(np.float32)


def stored(corpus, dim, precision, metric, scales=None):
    """What a stored document stands for at a size and precision."""
    prefix = corpus[:, :dim].astype(float)
    prefix = unit(prefix) if metric == "cosine" else prefix
    if precision == "binary":
        return np.where(prefix > 0, 1, -1) / np.sqrt(dim)
    if precision == "float16":
        return prefix.astype(np.float32).astype(np.float16).astype(float)
    if precision == "int8":
        codes = np.clip(np.rint(prefix.astype(np.float32) / scales), -127, 127)
        return (codes * scales).astype(float)
    return prefix


def plain_scores(queries, corpus, dim, metric="cosine", precision="float32", scales=None):
    """`(queries, rows)` scores: only documents are coded, queries are not."""
    asked = queries[:, :dim].astype(float)
    asked = unit(asked) if metric == "cosine" else asked
    documents = stored(corpus, dim, precision, metric, scales)
    if metric == "l2":
        return -np.square(asked[:, None] - documents[None]).sum(-1)
    return asked @ documents.T


def plain_top(scores, k):
    """The best k rows per query, of equal scores the earlier row first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
