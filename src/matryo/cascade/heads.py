"""Linear heads for every size: how they are learned, and what they say of a prefix."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from matryo.core import UnknownNameError
from matryo.transforms import truncate

HeadKind = Literal["separate", "tied", "nearest_mean"]
HEADS: tuple[HeadKind, ...] = get_args(HeadKind)

_FEW_SHOT_SCALE = 10.0  # of cosines, where one example of each class leaves nothing to fit it on
_LARGEST_SCALE = 1000.0
_ITERATIONS = 1000
_TOLERANCE = 1e-4  # of the gradient, as scikit-learn's logistic regression has it


@dataclass(frozen=True)
class Heads:
    """One linear head per size.

    Attributes:
        weights: One `(classes, dim)` array for each size; views of one matrix where heads are tied.
        biases: `(sizes, classes)`.
    """

    weights: Sequence[NDArray[np.floating]]
    biases: NDArray[np.floating]

    def probabilities(self, prefixes: NDArray[np.floating], size: int) -> NDArray[np.float64]:
        """`(n, classes)` softmax of the head number `size` on `(n, dim)` prefixes."""
        products = (prefixes @ self.weights[size].T).astype(np.float64)
        return softmax(products + self.biases[size])


def prefixes_of(rows: NDArray[np.floating], dim: int, *, normalize: bool) -> NDArray[np.floating]:
    """The first `dim` numbers of `(n, full_dim)` rows, scaled to length 1 if `normalize`.

    A prefix of only zeros stays as it is: it says nothing, and the biases alone answer.
    """
    prefix = rows[:, :dim]
    if not normalize:
        return prefix
    some = prefix.any(axis=1)
    if some.all():
        return truncate(prefix, dim)
    unit = np.zeros(prefix.shape, prefix.dtype)
    unit[some] = truncate(prefix[some], dim)
    return unit


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities along the last axis."""
    shares: NDArray[np.float64] = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def fit_heads(
    kind: HeadKind,
    rows: NDArray[np.floating],
    codes: NDArray[np.integer],
    dims: Sequence[int],
    *,
    C: float,  # noqa: N803  # the name that scikit-learn gave it
    normalize: bool,
) -> Heads:
    """Learn the heads of all sizes.

    Args:
        kind: `"separate"`, `"tied"` or `"nearest_mean"`.
        rows: `(n, full_dim)` vectors.
        codes: `(n,)` class numbers from 0 up.
        dims: Ascending sizes.
        C: Inverse strength of the penalty on squared weights.
        normalize: Scale prefixes to length 1.

    Raises:
        UnknownNameError: no such kind.
    """
    if kind == "tied":
        return fit_tied(rows, codes, dims, C=C, normalize=normalize)
    if kind not in HEADS:
        raise UnknownNameError.among("head", kind, HEADS)
    weights, biases = [], []
    for dim in dims:
        prefix = prefixes_of(rows, dim, normalize=normalize)
        if kind == "nearest_mean":
            weight, bias = _fit_nearest_mean(prefix, codes)
        else:
            weight, bias = _fit_logistic(prefix, codes, C)
        weights.append(weight)
        biases.append(bias)
    return Heads(weights, np.array(biases))


def _fit_logistic(
    prefix: NDArray[np.floating], codes: NDArray[np.integer], strength: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(prefix, codes)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # two classes: one row says how far the second is ahead
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    return weight, bias


def fit_tied(
    rows: NDArray[np.floating],
    codes: NDArray[np.integer],
    dims: Sequence[int],
    *,
    C: float,  # noqa: N803
    normalize: bool,
) -> Heads:
    """One matrix whose first `dim` columns are the head of that size, by L-BFGS.

    The heads of MRL-E (Kusupati and others 2022, "Matryoshka representation learning", section 3),
    with a bias for every size. The objective is convex.
    """
    from scipy.optimize import minimize
    from sklearn.exceptions import ConvergenceWarning

    n_sizes, n_classes, full_dim = len(dims), int(codes.max()) + 1, rows.shape[1]
    factors = inverse_lengths(rows, dims) if normalize else np.ones((n_sizes, len(rows)))
    start = np.zeros(n_classes * (full_dim + n_sizes))
    per_loss = 1 / (len(rows) * n_sizes)

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, slopes = tied_loss(parameters, rows, codes, dims, factors, C=C)
        return loss * per_loss, slopes * per_loss

    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS, "gtol": _TOLERANCE, "ftol": 64 * np.finfo(float).eps},
    )
    if not found.success:
        warnings.warn(
            f"the tied heads did not converge within {_ITERATIONS} iterations ({found.message}): "
            "lower C",
            ConvergenceWarning,
            stacklevel=4,
        )
    matrix, biases = _unpack(found.x, n_classes, full_dim)
    return Heads([matrix[:, :dim] for dim in dims], biases)


def tied_loss(
    parameters: NDArray[np.float64],
    rows: NDArray[np.floating],
    codes: NDArray[np.integer],
    dims: Sequence[int],
    factors: NDArray[np.floating],
    *,
    C: float,  # noqa: N803
) -> tuple[float, NDArray[np.float64]]:
    """The objectives of the separate heads, added up, and their exact gradient in one matrix.

    The logits of all sizes are running sums over blocks of dims, and the gradient of a block is one
    product with the sum of what all sizes from there up send back: both cost the multiplications of
    the full width alone.

    Args:
        parameters: The `(classes, full_dim)` matrix and the `(sizes, classes)` biases, flat.
        rows: `(n, full_dim)` vectors.
        codes: `(n,)` class numbers.
        dims: Ascending sizes, the last one the full width.
        factors: `(sizes, n)` what the numbers of each prefix are multiplied by.
        C: The penalty of a size is the sum of its squared weights over 2 C.

    Returns:
        Softmax loss summed over rows and sizes, plus the penalties; and its gradient.
    """
    matrix, biases = _unpack(parameters, int(codes.max()) + 1, rows.shape[1])
    weights = matrix.astype(rows.dtype, copy=False)
    blocks = [slice(a, b) for a, b in zip((0, *dims[:-1]), dims, strict=True)]
    each = np.arange(len(rows))
    total, loss = np.zeros((len(rows), len(matrix)), rows.dtype), 0.0
    sent_back, bias_slopes = [], np.empty_like(biases)
    for size, block in enumerate(blocks):
        total += rows[:, block] @ weights[:, block].T
        logits = total * factors[size][:, None] + biases[size]
        logits -= logits.max(axis=1, keepdims=True)
        slopes = np.exp(logits)
        sums = slopes.sum(axis=1, keepdims=True)
        loss += float(np.sum(np.log(sums[:, 0]) - logits[each, codes]))
        slopes /= sums
        slopes[each, codes] -= 1
        bias_slopes[size] = slopes.sum(axis=0)
        sent_back.append((slopes * factors[size][:, None]).astype(rows.dtype, copy=False))
    slope, matrix_slopes = np.zeros_like(total), np.empty_like(matrix)
    for size, block in reversed(list(enumerate(blocks))):
        slope += sent_back[size]
        penalty = (len(dims) - size) / C  # every size from this one up pays for these columns
        matrix_slopes[:, block] = slope.T @ rows[:, block] + penalty * matrix[:, block]
        loss += penalty / 2 * float(np.square(matrix[:, block]).sum())
    return loss, np.concatenate([matrix_slopes.ravel(), bias_slopes.ravel()])


def inverse_lengths(rows: NDArray[np.floating], dims: Sequence[int]) -> NDArray[np.floating]:
    """`(sizes, n)` one over the length of every prefix; 0 for a prefix of only zeros."""
    factors = np.zeros((len(dims), len(rows)), rows.dtype)
    for size, dim in enumerate(dims):
        prefix = rows[:, :dim].astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", prefix, prefix))
        np.divide(1, lengths, out=factors[size], where=lengths > 0, casting="same_kind")
    return factors


def _unpack(
    parameters: NDArray[np.float64], n_classes: int, full_dim: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The matrix and the biases."""
    first = n_classes * full_dim
    return parameters[:first].reshape(n_classes, full_dim), parameters[first:].reshape(
        -1, n_classes
    )


def _fit_nearest_mean(
    prefix: NDArray[np.floating], codes: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Weights that score a prefix by its cosine to the mean of each class, times one scale.

    Classes weigh the same however many examples they have. The scale, which turns cosines into
    logits, is the likeliest one when every example is compared with the mean of the others of its
    class; examples that are alone in theirs have no part in it.

    Args:
        prefix: `(n, dim)` prefixes of length 1.
        codes: `(n,)` class numbers.

    Returns:
        `(classes, dim)` weights and `(classes,)` biases of 0.
    """
    counts = np.bincount(codes)
    members = (codes == np.arange(len(counts))[:, None]).astype(prefix.dtype)
    sums = members @ prefix
    means, biases = _unit(sums), np.zeros(len(counts))
    fitting = counts[codes] > 1
    if not fitting.any():
        return _FEW_SHOT_SCALE * means, biases
    some, own = prefix[fitting], codes[fitting]
    cosines = (some @ means.T).astype(np.float64)
    cosines[np.arange(len(own)), own] = np.einsum("ij,ij->i", some, _unit(sums[own] - some))
    return _likeliest_scale(cosines, own) * means, biases


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    return prefixes_of(vectors, vectors.shape[1], normalize=True)


def _likeliest_scale(cosines: NDArray[np.float64], codes: NDArray[np.integer]) -> float:
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    own = cosines[np.arange(len(codes)), codes]

    def loss(scale: float) -> float:
        return float(np.mean(logsumexp(scale * cosines, axis=1) - scale * own))

    return float(minimize_scalar(loss, bounds=(0, _LARGEST_SCALE), method="bounded").x)
