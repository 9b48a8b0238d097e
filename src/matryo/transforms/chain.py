"""Several transforms, one after the other."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    DIGEST_LENGTH,
    Estimator,
    InputError,
    Transform,
    canonical,
)


class Chain(Estimator):
    """Apply transforms in order, each to the output of the one before.

    Args:
        steps: Transforms; they are left as they are, `fit` works on copies of them.

    Attributes:
        steps_: The fitted copies.
        n_features_in_: Width seen by `fit`.

    Examples:
        >>> from matryo.transforms import Rotation, Truncate
        >>> vectors = np.eye(8, dtype=np.float32)
        >>> Chain([Rotation(), Truncate(2, normalize=False)]).fit_transform(vectors).shape
        (8, 2)
    """

    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = steps

    @classmethod
    def of_fitted(cls, steps: Sequence[Transform]) -> Self:
        """A chain that is ready: its steps were fitted elsewhere, or have nothing to learn."""
        chain = cls(list(steps))
        chain.steps_ = list(chain._checked_steps())
        if hasattr(steps[0], "n_features_in_"):
            chain.n_features_in_ = steps[0].n_features_in_
        return chain

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:
        """Fit a copy of each step on the output of the one before.

        Raises:
            InputError: no steps.
            MatryoError: whatever a step refuses.
        """
        rows = out = self._rows_to_fit(vectors)
        fitted: list[Transform] = []
        for step in self._checked_steps():
            fitted.append(copy.deepcopy(step).fit(out, y))
            out = fitted[-1].transform(out)
        self.steps_ = fitted
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[Any]:
        """Apply every step to `(n, dim)` vectors."""
        out: NDArray[Any] = self._rows(vectors)
        for step in self.steps_:
            out = step.transform(out)
        return out

    @property
    def requires_fit(self) -> bool:
        """Always: the copies of the steps are made by `fit`."""
        return True

    @property
    def is_fitted(self) -> bool:
        """Whether the steps are fitted."""
        return "steps_" in vars(self)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """What every step learned, named by its place: `0.rotation`."""
        return {
            f"{place}.{name}": tensor
            for place, step in enumerate(self._steps_now())
            for name, tensor in step.to_tensors().items()
        }

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over the digests of the steps."""
        parts = [step.digest for step in self._steps_now()]
        return hashlib.sha256(canonical(["Chain", parts])).hexdigest()[:DIGEST_LENGTH]

    def _steps_now(self) -> Sequence[Transform]:
        return self.steps_ if self.is_fitted else self.steps

    def _checked_steps(self) -> Sequence[Transform]:
        if not len(self.steps):
            raise InputError("a chain needs at least one step, got none")
        for place, step in enumerate(self.steps):
            if not isinstance(step, Transform):
                raise InputError(f"step {place} of a chain must be a transform, got {step!r}")
        return self.steps
