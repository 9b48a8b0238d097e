"""Transformers in ONNX form with their `tokenizer.json`: no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, Side, Space, UnsupportedError
from matryo.encoders.digest import digest
from matryo.encoders.presets import find_preset, side_specs
from matryo.encoders.texts import check_texts

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_POOLED = "sentence_embedding"
_BATCH = 32
_MAX_LENGTH = 512


class OnnxEncoder:
    """A transformer in ONNX form, run by ONNX Runtime.

    The model's output is either one vector per text called `sentence_embedding`, which is taken as
    it is, or one vector per token `(texts, tokens, numbers)`, which is pooled here. Texts longer
    than `max_length` tokens are cut at their end.

    Args:
        path: The `.onnx` file, or a folder with exactly one in it or in its folder `onnx`.
        tokenizer: The tokenizer's file; by default `tokenizer.json` beside the model or one folder
            above.
        name: What to call the model; by default the folder's or the file's name.
        pooling: `"mean"` of the tokens that are not padding, or `"cls"`, the first token.
        max_length: Tokens taken of a text, with the special ones; by default the `max_seq_length`
            that `sentence_bert_config.json` beside the tokenizer states, else 512.
        prompts: `{"query": ..., "document": ...}`; by default those known of a model of this name.
        dims: Dims the model was trained at; by default those known of a model of this name.
        providers: Execution providers of ONNX Runtime, in order of preference.

    Raises:
        InputError: no model or tokenizer there, more than one, or an unknown pooling.
        UnsupportedError: the model wants other inputs, or gives no embedding.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        tokenizer: str | Path | None = None,
        name: str | None = None,
        pooling: Literal["mean", "cls"] = "mean",
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        dims: tuple[int, ...] | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        from onnxruntime import InferenceSession
        from tokenizers import Tokenizer

        if pooling not in ("mean", "cls"):
            raise InputError(f"pooling must be 'mean' or 'cls', got {pooling!r}")
        self._file = _find_model(Path(path))
        tokens = _find_tokenizer(self._file, tokenizer)
        length = max_length if max_length is not None else _stated_length(tokens)
        if length < 1:
            raise InputError(f"max_length must be at least 1, got {length}")
        self._pooling = pooling
        self._tokenizer = Tokenizer.from_file(str(tokens))
        # Files often carry a fixed padding and a short cut that belonged to their training.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)
        self._session: Any = InferenceSession(str(self._file), providers=list(providers))
        self._inputs = self._known_inputs()
        self._output = self._find_output()
        name = name or (Path(path).resolve().name if Path(path).is_dir() else self._file.stem)
        preset = find_preset(name)
        query, document = side_specs(preset, prompts)
        self._prompts = {Side.QUERY: query.prompt, Side.DOCUMENT: document.prompt}
        self._dims = dims or (preset.dims if preset else None)
        self._space = Space(
            name,
            self._run(["width"]).shape[1],
            revision=digest([*_parts(self._file), tokens], pooling, str(length)),
            query=query,
            document=document,
        )

    @property
    def space(self) -> Space:
        """Its revision covers model, tokenizer, pooling and `max_length`."""
        return self._space

    @property
    def dims(self) -> tuple[int, ...] | None:
        """As given, else of a known model."""
        return self._dims

    def encode(self, texts: Sequence[str], *, side: Side) -> NDArray[np.float32]:
        """One vector per text `(len(texts), full_dim)`, prompts applied, not scaled.

        Raises:
            InputError: an empty text.
        """
        prompt = self._prompts[side]
        checked = [prompt + text for text in check_texts(texts)]
        vectors = np.empty((len(checked), self._space.full_dim), dtype=np.float32)
        # Texts of like length stand together, so that little of a batch is padding.
        order = sorted(range(len(checked)), key=lambda position: len(checked[position]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            vectors[rows] = self._run([checked[row] for row in rows])
        return vectors

    def _run(self, texts: list[str]) -> NDArray[np.float32]:
        feed = self._feed(texts)
        output = self._session.run([self._output], {name: feed[name] for name in self._inputs})[0]
        output = output.astype(np.float32)
        if output.ndim == 2:
            pooled = output
        elif self._pooling == "cls":
            pooled = output[:, 0]
        else:
            mask = feed["attention_mask"][:, :, None].astype(np.float32)
            pooled = (output * mask).sum(axis=1) / mask.sum(axis=1)
        vectors: NDArray[np.float32] = pooled
        return vectors

    def _feed(self, texts: list[str]) -> dict[str, NDArray[np.int64]]:
        encoded = self._tokenizer.encode_batch(texts)
        shape = len(texts), max(len(item.ids) for item in encoded)
        feed = {name: np.zeros(shape, dtype=np.int64) for name in _INPUTS}
        for row, item in enumerate(encoded):
            feed["input_ids"][row, : len(item.ids)] = item.ids
            feed["attention_mask"][row, : len(item.ids)] = 1
        return feed

    def _known_inputs(self) -> list[str]:
        wanted = [item.name for item in self._session.get_inputs()]
        unknown = [name for name in wanted if name not in _INPUTS]
        if unknown or "input_ids" not in wanted:
            raise UnsupportedError(
                f"{self._file}: expected a text model with inputs among {', '.join(_INPUTS)}, got "
                f"one with {', '.join(wanted)}"
            )
        return wanted

    def _find_output(self) -> str:
        """The output that holds embeddings, judged by what a short text really gives."""
        names: list[str] = [item.name for item in self._session.get_outputs()]
        feed = self._feed(["width"])
        answers = self._session.run(names, {name: feed[name] for name in self._inputs})
        ranks = {name: np.ndim(answer) for name, answer in zip(names, answers, strict=True)}
        if ranks.get(_POOLED) == 2:
            return _POOLED
        for name, rank in ranks.items():
            if rank == 3:
                return name
        found = ", ".join(
            f"{name} {np.shape(answer)}" for name, answer in zip(names, answers, strict=True)
        )
        raise UnsupportedError(
            f"{self._file}: expected an output (texts, tokens, numbers), or (texts, numbers) "
            f"called {_POOLED}, got {found} for one text of {feed['input_ids'].shape[1]} tokens",
            hint="export the model with its last hidden state as an output",
        )


def _find_model(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted([*path.glob("*.onnx"), *path.glob("onnx/*.onnx")])
    if len(files) != 1:
        found = ", ".join(str(file.relative_to(path)) for file in files) or "none"
        raise InputError(
            f"expected a .onnx file, or a folder with exactly one, at {path}, got {found}",
            hint="name the file itself",
        )
    return files[0]


def _parts(model: Path) -> list[Path]:
    """The model's file, and that with its weights where they are kept apart."""
    return [model, *sorted(model.parent.glob(f"{model.name}[._]data"))]


def _find_tokenizer(model: Path, given: str | Path | None) -> Path:
    places = (
        [Path(given)]
        if given
        else [folder / "tokenizer.json" for folder in (model.parent, model.parent.parent)]
    )
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"no tokenizer at {' or '.join(str(place) for place in places)}",
        hint="pass tokenizer= with the tokenizer.json that belongs to the model",
    )


def _stated_length(tokenizer: Path) -> int:
    file = tokenizer.parent / "sentence_bert_config.json"
    stated = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return stated.get("max_seq_length") or _MAX_LENGTH
