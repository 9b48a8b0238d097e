"""The embedded default: WordLlama's static table, which needs neither torch nor a network.

A text's vector is the mean of the vectors of its tokens. Weights and tokenizer are read where the
package `wordllama` keeps them, without importing it; nothing is copied. The package is under the
MIT licence; its table was derived from the embeddings of Llama 2, whose terms may apply to it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.sparse import csr_array

from matryo.core import FormatError, MissingExtraError, Side, Space
from matryo.encoders.digest import digest
from matryo.encoders.presets import require_preset
from matryo.encoders.texts import check_texts

MODEL = "wordllama-l2-supercat-256"

_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_TABLE = "embedding.weight"
# Tokenizing holds some kilobytes per text; more at once is not faster.
_BATCH = 1024


class StaticEncoder:
    """WordLlama l2_supercat, 256 numbers, trained at 64, 128 and 256.

    Queries and documents are treated alike. Texts of any length are taken whole. One core encodes
    some 50,000 short texts per second.

    Raises:
        MissingExtraError: the package `wordllama` is not installed.
        FormatError: its files are not the known ones.
    """

    def __init__(self) -> None:
        from tokenizers import Tokenizer

        package = importlib.util.find_spec("wordllama")
        if package is None or not package.submodule_search_locations:
            raise MissingExtraError.of("the default encoder", "wordllama", "demo")
        folder = Path(package.submodule_search_locations[0])
        weights, tokenizer = folder / _WEIGHTS, folder / _TOKENIZER
        for file in (weights, tokenizer):
            if not file.is_file():
                raise FormatError(
                    f"{file} is missing: this version of wordllama keeps its model elsewhere",
                    hint="install the version that matryo knows: pip install 'matryo[demo]'",
                    path=file,
                )
        preset = require_preset(MODEL)
        self._table: NDArray[np.float32] = load_file(weights)[_TABLE].astype(np.float32)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._space = Space(MODEL, preset.full_dim, revision=digest([weights, tokenizer]))
        self._dims = preset.dims

    @property
    def space(self) -> Space:
        """Its revision covers the bytes of the table and of the tokenizer."""
        return self._space

    @property
    def dims(self) -> tuple[int, ...]:
        """64, 128 and 256."""
        return self._dims

    def encode(self, texts: Sequence[str], *, side: Side) -> NDArray[np.float32]:  # noqa: ARG002
        """Mean token vectors `(len(texts), 256)`, not scaled; both sides are alike.

        Raises:
            InputError: an empty text.
        """
        checked = check_texts(texts)
        vectors = np.empty((len(checked), self._space.full_dim), dtype=np.float32)
        for start in range(0, len(checked), _BATCH):
            batch = checked[start : start + _BATCH]
            vectors[start : start + _BATCH] = self._means(batch)
        return vectors

    def _means(self, texts: list[str]) -> NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        tokens = [item.ids for item in encoded]
        lengths = np.array([len(ids) for ids in tokens])
        ends = np.concatenate(([0], np.cumsum(lengths)))
        flat = np.fromiter(chain.from_iterable(tokens), np.int64, count=int(ends[-1]))
        # A sparse count matrix times the table adds the rows up without copying them first, which
        # is 30 times as fast as gathering them, and no text sees the tokens of another.
        counts = csr_array(
            (np.ones(len(flat), np.float32), flat, ends), shape=(len(texts), len(self._table))
        )
        means: NDArray[np.float32] = (counts @ self._table) / lengths[:, None].astype(np.float32)
        return means
