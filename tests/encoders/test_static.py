from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matryo.core import FormatError, InputError, Side

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda text: text.strip()
)


@pytest.fixture(scope="module")
def wordllama():
    package = pytest.importorskip("wordllama")
    folder = Path(package.__file__).parent
    return package.WordLlama.load(cache_dir=folder, trunc_dim=None, disable_download=True)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8))
def test_vectors_are_those_of_wordllama_itself(static, wordllama, texts):
    ours = static.encode(texts, side=Side.DOCUMENT)

    theirs = np.concatenate([wordllama.embed([text]) for text in texts])
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_long_text_beside_it_changes_nothing(static):
    alone = static.encode(["short"], side=Side.DOCUMENT)

    beside = static.encode(["a very long text " * 200, "short"], side=Side.DOCUMENT)

    np.testing.assert_array_equal(beside[1], alone[0])


def test_texts_across_batches_keep_their_order(static):
    texts = [f"text number {number}" for number in range(2500)]

    vectors = static.encode(texts, side=Side.DOCUMENT)

    np.testing.assert_array_equal(
        vectors[2400:2410], static.encode(texts[2400:2410], side=Side.QUERY)
    )


def test_a_space_carries_the_digest_of_the_model_and_the_trained_dims(static):
    assert static.dims == (64, 128, 256)
    assert len(static.space.revision) == 16
    assert static.space.full_dim == 256


@pytest.mark.parametrize("empty", ["", "   ", "\n"])
def test_an_empty_text_is_refused_by_its_position(static, empty):
    with pytest.raises(InputError, match=r"the empty text .* at position 2"):
        static.encode(["a", "b", empty], side=Side.QUERY)


def test_half_a_character_is_refused_by_its_position(static):
    with pytest.raises(InputError, match=r"half a character .* at position 1"):
        static.encode(["a", "b\ud83d"], side=Side.QUERY)


def test_something_that_is_no_text_is_refused(static):
    with pytest.raises(InputError, match="got NoneType None at position 1"):
        static.encode(["a", None], side=Side.QUERY)


def test_it_needs_neither_wordllama_itself_nor_torch(static):
    code = (
        "import sys; from matryo.encoders import encoder; from matryo.core import Side; "
        "encoder('default').encode(['a'], side=Side.QUERY); "
        "print([m for m in ('wordllama','torch','transformers') if m in sys.modules])"
    )

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"


def test_a_package_that_keeps_its_model_elsewhere_is_refused(tmp_path, monkeypatch, static):
    (tmp_path / "wordllama").mkdir()
    (tmp_path / "wordllama" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wordllama", raising=False)

    with pytest.raises(FormatError, match=r"l2_supercat_256.safetensors is missing"):
        type(static)()


@pytest.mark.slow
def test_ten_thousand_short_texts_take_less_than_a_second_of_processor_time(static):
    texts = [f"how do I reset my password for account {number} please" for number in range(10_000)]
    start = time.process_time()

    static.encode(texts, side=Side.DOCUMENT)

    assert time.process_time() - start < 1.0
