"""Classify with as few numbers of each vector as its answer needs."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from matryo.cascade.classifier import Classifier, NestedClassifier
from matryo.core import (
    DIGEST_LENGTH,
    DimError,
    ExitPolicy,
    Funnel,
    InputError,
    Plan,
    Transform,
    UnsupportedError,
    canonical,
)

Signal = Literal["probability", "margin"]


@dataclass(frozen=True)
class Answers:
    """What a cascade said of each vector.

    Attributes:
        labels: `(n,)` classes.
        probabilities: `(n, classes)`, of the size that answered.
        dims: `(n,)` that size: how many numbers of the vector were read.
    """

    labels: NDArray[Any]
    probabilities: NDArray[np.float64]
    dims: NDArray[np.int64]


@dataclass(frozen=True)
class CascadeReport:
    """How well a cascade does on labelled vectors, beside the full width.

    Attributes:
        accuracy: Of the cascade.
        full_accuracy: Of the full width.
        agreement: Share of vectors to which both give the same answer.
        expected_dims: Numbers read per vector, on average.
        full_dim: Numbers of a whole vector.
        stopped_at: Share of vectors that each size answered.
        n: Vectors.
    """

    accuracy: float
    full_accuracy: float
    agreement: float
    expected_dims: float
    full_dim: int
    stopped_at: Mapping[int, float]
    n: int


class Cascade(Classifier):
    """Look at a longer prefix only where a shorter one leaves the answer in doubt.

    Args:
        classifier: Fitted heads, which are used as they are; `fit` learns new ones for a copy.
        policy: Where to stop; its dims are among those of the classifier.

    Attributes:
        classifier_: The copy that `fit` taught, if it was called.
        classes_: Labels, sorted.
        n_features_in_: The full width.

    Examples:
        >>> vectors = np.array([[1.0, 0.2], [0.9, -0.2], [-1.0, 0.1], [-0.8, -0.1]])
        >>> fitted = NestedClassifier("1,2").fit(vectors, ["in", "in", "out", "out"])
        >>> Cascade(fitted, ExitPolicy((1, 2), (0.9,))).dims_used(vectors)
        array([1, 1, 1, 1])
    """

    def __init__(self, classifier: NestedClassifier, policy: ExitPolicy) -> None:
        self.classifier = classifier
        self.policy = policy

    def fit(self, vectors: NDArray[np.floating], y: Any = None) -> Self:
        """Teach a copy of the classifier `(n, full_dim)` vectors with their labels."""
        self.classifier_ = copy.deepcopy(self.classifier).fit(vectors, y)
        return self

    def classify(self, vectors: NDArray[np.floating]) -> Answers:
        """Answer, and say for each of `(n, full_dim)` vectors how much of it was read.

        Raises:
            DimError: the policy has a dim that the classifier has no head for.
            VectorError: NaN or infinity.
        """
        rows = self._rows(vectors)
        heads, policy = self.nested, self.policy
        unknown = [dim for dim in policy.dims if dim not in heads.dims_]
        if unknown:
            raise DimError(
                f"this policy stops at {', '.join(map(str, unknown))}, the classifier has heads "
                f"for {', '.join(map(str, heads.dims_))}",
                hint="fit the classifier at the dims of the policy",
                dims=unknown,
            )
        probabilities = np.empty((len(rows), len(heads.classes_)))
        dims = np.empty(len(rows), np.int64)
        going_on = np.arange(len(rows))
        for dim, threshold in zip(policy.dims, (*policy.thresholds, 0.0), strict=True):
            found = heads.predict_proba_at(rows[going_on], dim)
            stopping = signal_of(found, policy.signal) >= threshold
            here = going_on[stopping]
            probabilities[here], dims[here] = found[stopping], dim
            going_on = going_on[~stopping]
        return Answers(self.classes_of(probabilities), probabilities, dims)

    def predict_proba(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """`(n, classes)` probabilities, each row from the size that answered."""
        return self.classify(vectors).probabilities

    def dims_used(self, vectors: NDArray[np.floating]) -> NDArray[np.int64]:
        """`(n,)` sizes that answered; their mean is the expected dims."""
        return self.classify(vectors).dims

    def report(self, vectors: NDArray[np.floating], labels: Any) -> CascadeReport:
        """Accuracy and cost on `(n, full_dim)` vectors with known labels.

        Raises:
            InputError: no vectors, or not one label for each.
        """
        truth = np.asarray(labels)
        if truth.shape != (len(vectors),) or not len(truth):
            raise InputError(
                f"expected one label for each of {len(vectors)} vectors, and at least one, got "
                f"shape {truth.shape}"
            )
        answers, full = self.classify(vectors), self.nested.predict(vectors)
        return CascadeReport(
            accuracy=float(np.mean(answers.labels == truth)),
            full_accuracy=float(np.mean(full == truth)),
            agreement=float(np.mean(answers.labels == full)),
            expected_dims=float(answers.dims.mean()),
            full_dim=self.n_features_in_,
            stopped_at={dim: float(np.mean(answers.dims == dim)) for dim in self.policy.dims},
            n=len(truth),
        )

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over the heads and the policy."""
        state = canonical(["Cascade", self.nested.digest, asdict(self.policy)])
        return hashlib.sha256(state).hexdigest()[:DIGEST_LENGTH]

    @property
    def is_fitted(self) -> bool:
        """Whether the classifier has heads: its own, or those that `fit` taught a copy."""
        return self.nested.is_fitted

    @property
    def classes_(self) -> NDArray[Any]:  # type: ignore[override]
        """Labels, sorted."""
        return self.nested.classes_

    @property
    def n_features_in_(self) -> int:  # type: ignore[override]
        """The full width."""
        return self.nested.n_features_in_

    @property
    def nested(self) -> NestedClassifier:
        """The classifier that answers: the copy that `fit` taught, or the one that was given."""
        heads: NestedClassifier = vars(self).get("classifier_", self.classifier)
        return heads


def signal_of(probabilities: NDArray[np.floating], signal: Signal) -> NDArray[np.floating]:
    """What a policy compares with its thresholds.

    Args:
        probabilities: `(n, classes)`.
        signal: `"probability"` of the likeliest class, or its `"margin"` over the second.

    Returns:
        `(n,)` numbers from 0 to 1.
    """
    n_classes = probabilities.shape[1]
    top = np.partition(probabilities, (n_classes - 2, n_classes - 1), axis=1)
    best: NDArray[np.floating] = top[:, -1]
    return best if signal == "probability" else best - top[:, -2]


def run(
    plan: Plan,
    classifier: NestedClassifier,
    vectors: NDArray[np.floating],
    *,
    transform: Transform | None = None,
) -> Answers:
    """Run the exit policy of a plan: the reference for whatever serves such plans.

    Args:
        plan: A plan for a cascade.
        classifier: The heads that the plan was made for.
        vectors: `(n, full_dim)` vectors of the plan's space, before its transform.
        transform: The transform that the plan names, if it names one.

    Raises:
        UnsupportedError: the plan is for a search.
        InputError: other heads than those the plan was made for, or not the transform it names.
        DimError: vectors or heads of another width.
    """
    if isinstance(plan.run, Funnel):
        raise UnsupportedError(
            f"expected a plan with an exit policy, got one with a funnel, {plan.run}",
            hint="search with matryo.search.run",
        )
    made_for = (plan.evidence or {}).get("classifier")
    if made_for is not None and made_for != classifier.digest:
        raise InputError(
            f"this plan was made for the classifier {made_for}, got {classifier.digest}",
            hint="load the heads that were saved with the plan, or certify a policy for these",
        )
    got = None if transform is None else transform.digest
    if got != plan.transform:
        raise InputError(
            f"this plan needs {f'the transform {plan.transform}' if plan.transform else 'none'} "
            f"before it classifies, got {got or 'none'}",
            hint="load_transform reads a transform from where it was saved",
        )
    rows = vectors if transform is None else transform.transform(vectors)
    return Cascade(classifier, plan.run).classify(rows)
