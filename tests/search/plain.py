"""The score rule once more, in a few lines of plain numpy that share no code with matryo."""

from __future__ import annotations

import numpy as np

# of each packed format its levels, the width of one as a share of the root mean square of a row,
# and the largest integer of a query that meets them; bits have one level on either side
PACKED = {"int4": (16, 0.335, 127), "int2": (4, 0.9957, 127), "binary": (2, np.inf, 63)}


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
    if precision in PACKED:
        return unit(odd_numbers(prefix, precision))
    if precision == "float16":
        return prefix.astype(np.float32).astype(np.float16).astype(float)
    if precision == "int8":
        codes = np.clip(np.rint(prefix.astype(np.float32) / scales), -127, 127)
        return (codes * scales).astype(float)
    return prefix


def odd_numbers(prefix, precision):
    """The odd integers that rows of length 1 become: the middles of levels, counted in halves."""
    levels, width, _ = PACKED[precision]
    rows = prefix.astype(np.float32).astype(float)
    if precision == "binary":
        return np.where(rows > 0, 1, -1)
    size = np.sqrt(np.square(rows).mean(axis=1, keepdims=True))
    return np.clip(2 * np.floor(rows / (width * size)) + 1, 1 - levels, levels - 1).astype(int)


def packed_scores(queries, corpus, dim, precision):
    """`(queries, rows)` float32 products of sums of integers: queries are rounded too."""
    asked = unit(queries[:, :dim]).astype(np.float32).astype(float)
    steps = (np.abs(asked).max(axis=1, keepdims=True) / PACKED[precision][2]).astype(np.float32)
    weights = np.rint(asked / steps).astype(int)
    numbers = odd_numbers(unit(corpus[:, :dim]), precision)
    lengths = np.sqrt(np.square(numbers).sum(axis=1).astype(np.float32))
    return (weights @ numbers.T).astype(np.float32) * (np.float32(1) / lengths) * steps


def plain_scores(queries, corpus, dim, metric="cosine", precision="float32", scales=None):
    """`(queries, rows)` scores: documents are coded, queries only where packed codes need it."""
    if precision in PACKED:
        return packed_scores(queries, corpus, dim, precision)
    asked = queries[:, :dim].astype(float)
    asked = unit(asked) if metric == "cosine" else asked
    documents = stored(corpus, dim, precision, metric, scales)
    if metric == "l2":
        return -np.square(asked[:, None] - documents[None]).sum(-1)
    return asked @ documents.T


def plain_top(scores, k):
    """The best k rows per query, of equal scores the earlier row first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
