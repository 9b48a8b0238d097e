"""What every transform must do, as checks that a plug-in's author runs over their own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import DimError, NotFittedError, Transform
from matryo.transforms import load_transform, save_transform

TransformFactory = Callable[[], Transform]

_ROWS = 64


@dataclass(frozen=True, slots=True)
class TransformCheck:
    """One rule. Call it with a factory of unfitted transforms; it raises `AssertionError`."""

    name: str
    dim: int
    run: Callable[[TransformFactory, NDArray[np.float32]], None]

    def __call__(self, factory: TransformFactory) -> None:
        """Hold the transforms that the factory makes to the rule."""
        sample = np.random.default_rng(0).standard_normal((_ROWS, self.dim), dtype=np.float32)
        self.run(factory, sample)

    def __str__(self) -> str:
        return self.name


def transform_checks(*, dim: int = 16) -> list[TransformCheck]:
    """The rules of `matryo.core.Transform`, for instance as the parameters of a pytest test.

        @pytest.mark.parametrize("check", transform_checks(), ids=str)
        def test_my_transform(check):
            check(MyTransform)

    Saving and loading needs a class that `matryo.transforms.save_transform` knows.

    Args:
        dim: Width of the 64 float32 vectors that the transform is tried on.
    """
    rules: list[tuple[str, Callable[[TransformFactory, NDArray[np.float32]], None]]] = [
        ("is_a_transform", _is_a_transform),
        ("fit_returns_itself", _fit_returns_itself),
        ("gives_one_finite_row_per_vector", _gives_one_finite_row_per_vector),
        ("leaves_its_input_alone", _leaves_its_input_alone),
        ("treats_a_row_the_same_in_any_batch", _treats_a_row_the_same_in_any_batch),
        ("learns_the_same_twice", _learns_the_same_twice),
        ("transform_changes_no_state", _transform_changes_no_state),
        ("refuses_to_transform_before_fit_if_it_learns", _refuses_before_fit),
        ("refuses_another_width", _refuses_another_width),
        ("outlasts_saving_and_loading", _outlasts_saving_and_loading),
    ]
    return [TransformCheck(name, dim, run) for name, run in rules]


def _is_a_transform(factory: TransformFactory, sample: NDArray[np.float32]) -> None:  # noqa: ARG001
    made = factory()

    _require(isinstance(made, Transform), f"{type(made).__name__} lacks a part of Transform")


def _fit_returns_itself(factory: TransformFactory, sample: NDArray[np.float32]) -> None:
    transform = factory()

    _require(transform.fit(sample) is transform, "fit must return the transform itself")


def _gives_one_finite_row_per_vector(
    factory: TransformFactory, sample: NDArray[np.float32]
) -> None:
    out = factory().fit(sample).transform(sample)

    _require(
        out.ndim == 2 and len(out) == len(sample), f"expected {_ROWS} rows, got shape {out.shape}"
    )
    _require(bool(np.isfinite(out).all()), "some numbers are NaN or infinity")


def _leaves_its_input_alone(factory: TransformFactory, sample: NDArray[np.float32]) -> None:
    before = sample.copy()
    out = factory().fit(sample).transform(sample)
    same_memory = np.shares_memory(out, sample)

    _require(bool(np.array_equal(sample, before)), "fit or transform changed its input")
    _require(not same_memory or out is sample, "the result must be a new array, not a view")


def _treats_a_row_the_same_in_any_batch(
    factory: TransformFactory, sample: NDArray[np.float32]
) -> None:
    transform = factory().fit(sample)
    together = transform.transform(sample)
    alone = np.concatenate([transform.transform(sample[i : i + 1]) for i in range(len(sample))])

    _require_same(together, alone, "rows one by one")
    _require_same(together[::-1], transform.transform(sample[::-1]), "rows in reverse order")


def _learns_the_same_twice(factory: TransformFactory, sample: NDArray[np.float32]) -> None:
    once, again = factory().fit(sample), factory().fit(sample)

    _require(once.digest == again.digest, "two fits of the same vectors have two digests")
    _require_same(once.transform(sample), again.transform(sample), "a second fit")


def _transform_changes_no_state(factory: TransformFactory, sample: NDArray[np.float32]) -> None:
    transform = factory().fit(sample)
    before = transform.digest
    transform.transform(sample)

    _require(transform.digest == before, "transform changed the digest")


def _refuses_before_fit(factory: TransformFactory, sample: NDArray[np.float32]) -> None:
    if not factory().fit(sample).to_tensors():
        return
    try:
        factory().transform(sample)
    except NotFittedError:
        return
    raise AssertionError("transform before fit must be refused with NotFittedError")


def _refuses_another_width(factory: TransformFactory, sample: NDArray[np.float32]) -> None:
    transform = factory().fit(sample)
    for other in (sample[:, :-1], np.hstack([sample, sample])):
        try:
            transform.transform(other)
        except DimError:
            continue
        raise AssertionError(
            f"fitted on {sample.shape[1]} numbers, {other.shape[1]} must be refused with DimError"
        )


def _outlasts_saving_and_loading(factory: TransformFactory, sample: NDArray[np.float32]) -> None:
    transform = factory().fit(sample)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transform.safetensors"
        save_transform(transform, path)
        loaded = load_transform(path)

    _require(loaded.digest == transform.digest, "loading gives another digest")
    same = np.array_equal(loaded.transform(sample), transform.transform(sample))
    _require(same, "the loaded transform gives other numbers")


def _require_same(one: NDArray[Any], other: NDArray[Any], what: str) -> None:
    same = one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-5)
    _require(bool(same), f"{what}: the result differs by more than rounding")


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise AssertionError(message)
