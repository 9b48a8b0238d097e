"""Static tables, which need neither torch nor a network: a vector for each token, and their mean.

The embedded default is WordLlama's. Its weights and tokenizer are read where the package
`wordllama` keeps them, without importing it; nothing is copied. The package is under the MIT
licence; its table was derived from the embeddings of Llama 2, whose terms may apply to it.

`tools/train_default_model.py` makes such a table too, as a folder that `StaticTable` reads.
"""

from __future__ import annotations

import importlib.util
import json
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
_WORDS = 200_000  # kept apart already, in some 40 MB
# Tokenizing holds some kilobytes per text; more at once is not faster.
_BATCH = 1024


class _Static:
    """What static tables have in common, whatever file they come from."""

    _table: NDArray[np.float32]
    _space: Space
    _dims: tuple[int, ...]

    @property
    def space(self) -> Space:
        """Its revision covers the bytes of the table and of the tokenizer."""
        return self._space

    @property
    def dims(self) -> tuple[int, ...]:
        """The dims it was trained at."""
        return self._dims

    def encode(self, texts: Sequence[str], *, side: Side) -> NDArray[np.float32]:  # noqa: ARG002
        """Mean token vectors `(len(texts), full_dim)`, not scaled; both sides are alike.

        Raises:
            InputError: an empty text.
        """
        checked = check_texts(texts)
        vectors = np.empty((len(checked), self._space.full_dim), dtype=np.float32)
        for start in range(0, len(checked), _BATCH):
            tokens = self._tokens(checked[start : start + _BATCH])
            vectors[start : start + _BATCH] = _means(tokens, self._table)
        return vectors

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        raise NotImplementedError


class StaticEncoder(_Static):
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

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [item.ids for item in encoded]


class StaticTable(_Static):
    """A table in int8 with a scale for each row, and its tokenizer, from a folder.

    Queries and documents are treated alike. Texts of any length are taken whole.

    Args:
        folder: With `manifest.json`, which has the name and the dims, `model.safetensors`, which
            has `(tokens, width)` int8 `codes` and `(tokens, 1)` float32 `scales`, and
            `tokenizer.json`, whose tokenizer takes words between white space apart one by one.

    Raises:
        FormatError: a file is missing, or is not such a file.
    """

    def __init__(self, folder: str | Path) -> None:
        from tokenizers import Tokenizer

        names = ("manifest.json", "model.safetensors", "tokenizer.json")
        manifest, weights, tokenizer = (Path(folder) / name for name in names)
        for file in (manifest, weights, tokenizer):
            if not file.is_file():
                raise FormatError(f"{folder}: expected a static table, {file.name} is missing")
        try:
            told, stored = json.loads(manifest.read_text("utf-8")), load_file(weights)
            name, self._dims = str(told["name"]), tuple(int(dim) for dim in told["dims"])
            self._table: NDArray[np.float32] = stored["codes"] * stored["scales"]
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the tokenizer raises nothing narrower
            raise FormatError(f"{folder}: expected a static table, got {error!r}") from error
        unknown = self._tokenizer.token_to_id("[UNK]")
        if unknown is None:
            raise FormatError(f"{tokenizer}: expected a tokenizer that knows [UNK], got none")
        self._unknown = [unknown]
        self._known: dict[str, list[int]] = {}
        self._space = Space(name, self._table.shape[1], revision=digest([weights, tokenizer]))

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        """Token numbers of each text, at least one.

        A word seen before is looked up, which is several times as fast as taking it apart again.
        """
        if len(self._known) > _WORDS:
            self._known = {}
        known, apart = self._known, [text.split() for text in texts]
        new = list({word for words in apart for word in words if word not in known})
        encoded = self._tokenizer.encode_batch(new, add_special_tokens=False)
        known |= {word: item.ids for word, item in zip(new, encoded, strict=True)}
        # a text of nothing but control characters has no token left
        return [
            list(chain.from_iterable(known[word] for word in words)) or self._unknown
            for words in apart
        ]


def _means(tokens: list[list[int]], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean rows of the table, one for each text.

    A sparse count matrix times the table adds rows up without copying them first, which is 30 times
    as fast as gathering them, and no text sees the tokens of another.
    """
    lengths = np.array([len(ids) for ids in tokens])
    ends = np.concatenate(([0], np.cumsum(lengths)))
    flat = np.fromiter(chain.from_iterable(tokens), np.int64, count=int(ends[-1]))
    counts = csr_array(
        (np.ones(len(flat), np.float32), flat, ends), shape=(len(tokens), len(table))
    )
    means: NDArray[np.float32] = (counts @ table) / lengths[:, None].astype(np.float32)
    return means
