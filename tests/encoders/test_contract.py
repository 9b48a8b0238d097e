"""Every encoder of matryo against the suite that plug-in authors use."""

from __future__ import annotations

import numpy as np
import pytest

from matryo.core import Side, Space
from matryo.encoders import Function, Precomputed
from matryo.testing.encoders import SAMPLE_TEXTS, encoder_checks

CHECKS = encoder_checks()
SPACE = Space("letters", 4)


def letters(texts):
    return np.array([[len(text), text.count(" "), text.count("e"), 1.0] for text in texts])


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_the_embedded_model_keeps_the_contract(check, static):
    check(lambda: static)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_a_function_keeps_the_contract(check):
    check(lambda: Function(letters, SPACE, dims=(2, 4)))


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_precomputed_vectors_keep_the_contract(check):
    known = SAMPLE_TEXTS, letters(SAMPLE_TEXTS)

    check(lambda: Precomputed(SPACE, queries=known, documents=known))


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_an_onnx_model_keeps_the_contract(check, onnx_minilm):
    check(lambda: onnx_minilm)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_a_sentence_transformers_model_keeps_the_contract(check, minilm):
    check(lambda: minilm)


def test_the_suite_catches_an_encoder_that_mixes_up_its_rows():
    def shuffled(texts):
        return letters(sorted(texts))

    broken = Function(shuffled, SPACE)
    order = next(check for check in CHECKS if check.name.startswith("gives_a_text_the_same"))

    with pytest.raises(AssertionError, match=r"text . got another vector"):
        order(lambda: broken)


def test_the_suite_catches_an_encoder_that_lets_empty_texts_pass():
    class Careless(Function):
        def encode(self, texts, *, side):  # noqa: ARG002
            return np.ones((len(texts), 4), np.float32)

    empty = next(check for check in CHECKS if check.name == "refuses_empty_texts")

    with pytest.raises(AssertionError, match="must be refused with InputError"):
        empty(lambda: Careless(letters, SPACE))


def test_both_sides_of_a_function_get_their_prompt():
    from matryo.core import SideSpec

    seen = []

    def spy(texts):
        seen.extend(texts)
        return np.ones((len(texts), 2))

    space = Space("m", 2, query=SideSpec("ask: "), document=SideSpec("say: "))
    made = Function(spy, space)

    made.encode(["a"], side=Side.QUERY)
    made.encode(["b"], side=Side.DOCUMENT)

    assert seen == ["ask: a", "say: b"]
