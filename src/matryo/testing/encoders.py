"""What every encoder must do, as checks that a plug-in's author runs over their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matryo.core import Encoder, InputError, Side

EncoderFactory = Callable[[], Encoder]

# Every text a check encodes, so that an encoder of known texts can be checked too.
SAMPLE_TEXTS = (
    "how do I reset my password",
    "The quick brown fox jumps over the lazy dog.",
    "x",
    "Größe, 大きさ, 🪆",
    "  spaces around\n and a second line  ",
    "a longer text about the tide that comes and goes with the moon, " * 8,
)
# Batches of another shape round otherwise; a vector of another text is far below this.
_SAME = 0.9999


@dataclass(frozen=True, slots=True)
class EncoderCheck:
    """One rule. Call it with a factory that makes the encoder; it raises `AssertionError`."""

    name: str
    run: Callable[[Encoder], None]

    def __call__(self, factory: EncoderFactory) -> None:
        """Make an encoder and hold it to the rule."""
        self.run(factory())

    def __str__(self) -> str:
        return self.name


def encoder_checks() -> list[EncoderCheck]:
    """The rules of `matryo.core.Encoder`, for instance as the parameters of a pytest test.

        @pytest.mark.parametrize("check", encoder_checks(), ids=str)
        def test_my_encoder(check):
            check(MyEncoder)

    Vectors need not have length 1.
    """
    return [
        EncoderCheck("is_an_encoder", _is_an_encoder),
        EncoderCheck("gives_one_float32_row_per_text", _gives_one_float32_row_per_text),
        EncoderCheck("gives_finite_rows_that_are_not_zero", _gives_finite_rows),
        EncoderCheck("takes_no_texts", _takes_no_texts),
        EncoderCheck("keeps_the_order", _keeps_the_order),
        EncoderCheck("is_deterministic", _is_deterministic),
        EncoderCheck("gives_a_text_the_same_vector_in_any_batch", _is_independent_of_the_batch),
        EncoderCheck("refuses_empty_texts", _refuses_empty_texts),
        EncoderCheck("refuses_one_string_for_many", _refuses_one_string),
        EncoderCheck("encodes_both_sides", _encodes_both_sides),
        EncoderCheck("stays_in_one_space", _stays_in_one_space),
        EncoderCheck("states_dims_that_ascend_within_the_width", _states_sound_dims),
    ]


def _is_an_encoder(encoder: Encoder) -> None:
    _require(isinstance(encoder, Encoder), f"{type(encoder).__name__} lacks a part of Encoder")


def _gives_one_float32_row_per_text(encoder: Encoder) -> None:
    vectors = encoder.encode(SAMPLE_TEXTS, side=Side.DOCUMENT)

    expected = (len(SAMPLE_TEXTS), encoder.space.full_dim)
    _require(vectors.shape == expected, f"expected shape {expected}, got {vectors.shape}")
    _require(vectors.dtype == np.float32, f"expected float32, got {vectors.dtype}")


def _gives_finite_rows(encoder: Encoder) -> None:
    vectors = encoder.encode(SAMPLE_TEXTS, side=Side.DOCUMENT)

    _require(bool(np.isfinite(vectors).all()), "some numbers are NaN or infinity")
    _require(bool(vectors.any(axis=1).all()), "some rows hold only zeros")


def _takes_no_texts(encoder: Encoder) -> None:
    vectors = encoder.encode([], side=Side.QUERY)

    expected = (0, encoder.space.full_dim)
    _require(vectors.shape == expected, f"expected shape {expected}, got {vectors.shape}")


def _keeps_the_order(encoder: Encoder) -> None:
    forward = encoder.encode(SAMPLE_TEXTS, side=Side.DOCUMENT)
    backward = encoder.encode(SAMPLE_TEXTS[::-1], side=Side.DOCUMENT)

    _require_same(forward, backward[::-1], "texts in reverse order")


def _is_deterministic(encoder: Encoder) -> None:
    first = encoder.encode(SAMPLE_TEXTS, side=Side.QUERY)
    second = encoder.encode(SAMPLE_TEXTS, side=Side.QUERY)

    _require_same(first, second, "a second call")


def _is_independent_of_the_batch(encoder: Encoder) -> None:
    together = encoder.encode(SAMPLE_TEXTS, side=Side.DOCUMENT)
    alone = [encoder.encode([text], side=Side.DOCUMENT) for text in SAMPLE_TEXTS]

    _require_same(together, np.concatenate(alone), "texts one by one")


def _refuses_empty_texts(encoder: Encoder) -> None:
    for empty in ("", " \n\t"):
        try:
            encoder.encode([SAMPLE_TEXTS[0], empty], side=Side.DOCUMENT)
        except InputError as error:
            _require("1" in str(error), f"the refusal must name position 1, got: {error}")
        else:
            raise AssertionError(f"{empty!r} must be refused with InputError")


def _refuses_one_string(encoder: Encoder) -> None:
    try:
        encoder.encode(SAMPLE_TEXTS[0], side=Side.DOCUMENT)
    except InputError:
        return
    raise AssertionError("one string in place of several must be refused with InputError")


def _encodes_both_sides(encoder: Encoder) -> None:
    shapes = {encoder.encode(SAMPLE_TEXTS, side=side).shape for side in Side}

    _require(len(shapes) == 1, f"both sides must have one shape, got {shapes}")


def _stays_in_one_space(encoder: Encoder) -> None:
    before = encoder.space.fingerprint
    encoder.encode(SAMPLE_TEXTS, side=Side.QUERY)

    _require(encoder.space.fingerprint == before, "encoding changed the space")


def _states_sound_dims(encoder: Encoder) -> None:
    dims = encoder.dims
    if dims is None:
        return
    _require(list(dims) == sorted(set(dims)), f"dims must ascend without repeats, got {dims}")
    _require(
        dims[0] >= 1 and dims[-1] <= encoder.space.full_dim,
        f"dims must lie between 1 and {encoder.space.full_dim}, got {dims}",
    )


def _require_same(one: NDArray[np.float32], other: NDArray[np.float32], what: str) -> None:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = np.einsum("ij,ij->i", one, other) / lengths
    worst = int(cosines.argmin())
    _require(
        bool(cosines[worst] >= _SAME),
        f"{what}: text {worst} got another vector, cosine {cosines[worst]:.5f}",
    )


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise AssertionError(message)
