"""One fitted transform in one .safetensors file.

The header names the class, its parameters and the digest; the tensors are what was learned. A
SHA-256 in the header covers every byte of the file, taken while its own place holds zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Entry,
    FormatError,
    NotFittedError,
    Registry,
    Transform,
    canonical,
    write_atomically,
)
from matryo.transforms.chain import Chain

FORMAT = 1
KIND = "matryo-transform"
_BLANK = "0" * 64

TRANSFORMS = Registry(
    "transform",
    "matryo.transforms",
    {
        "Adaptor": Entry("matryo.transforms.adaptor:Adaptor", "Learned map of any kind.", {}),
        "Chain": Entry("matryo.transforms.chain:Chain", "Transforms in order.", {}),
        "PreStep": Entry("matryo.transforms.truncate:PreStep", "Step before the cut.", {}),
        "Quantize": Entry("matryo.transforms.quantize:Quantize", "Codes of a number format.", {}),
        "Reorder": Entry("matryo.transforms.reorder:Reorder", "Another order of numbers.", {}),
        "Rotation": Entry("matryo.transforms.rotate:Rotation", "Orthogonal map.", {}),
        "Truncate": Entry("matryo.transforms.truncate:Truncate", "Keep a prefix.", {}),
    },
)


def save_transform(transform: Transform, path: str | Path) -> None:
    """Write a fitted transform as one file; an older file is replaced only when all is well.

    A class from elsewhere can be saved too: announce it by its name in the entry point group
    `matryo.transforms`, and give it `get_params()` and `set_tensors(tensors)`.

    Raises:
        NotFittedError: a part has learned nothing yet.
        UnknownNameError: a class that `load_transform` could not find again.
        InputError: the folder of `path` does not exist.
    """
    from safetensors.numpy import save

    tensors = {name: np.ascontiguousarray(t) for name, t in transform.to_tensors().items()}
    header = {
        "kind": KIND,
        "format": str(FORMAT),
        "digest": transform.digest,
        "sha256": _BLANK,
        "transform": canonical(_describe(transform)).decode(),
    }
    blank = save(tensors, header)
    checksum = hashlib.sha256(blank).hexdigest()
    write_atomically(path, blank.replace(_BLANK.encode(), checksum.encode(), 1))


def load_transform(path: str | Path) -> Transform:
    """Read a transform written by `save_transform`.

    Raises:
        FormatError: not such a file, a newer format, or a changed byte.
        UnknownNameError: it holds a class from a package that is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    raw = Path(path).read_bytes()
    try:
        header = _header(raw)
        kind, number, checksum = header["kind"], header["format"], header["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path}: expected a transform as .safetensors, got {error!r}", path=path
        ) from error
    if kind != KIND:
        raise FormatError(f"{path}: expected kind {KIND!r}, got {kind!r}", path=path)
    if number != str(FORMAT):
        raise FormatError(
            f"{path}: expected format {FORMAT}, got {number}",
            hint="a newer matryo wrote this file: pip install -U matryo",
            path=path,
        )
    blank = raw.replace(checksum.encode(), _BLANK.encode(), 1)
    if hashlib.sha256(blank).hexdigest() != checksum:
        raise FormatError(
            f"{path}: this file was changed after it was written (its SHA-256 does not match)",
            hint="restore the file, or fit the transform again",
            path=path,
        )
    try:
        return _rebuild(json.loads(header["transform"]), load(raw))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: expected a transform, got {error!r}", path=path) from error


def _header(raw: bytes) -> dict[str, str]:
    """The metadata of a .safetensors file: a length of 8 bytes, then JSON, then tensors."""
    length = int.from_bytes(raw[:8], "little")
    metadata: dict[str, str] = json.loads(raw[8 : 8 + length])["__metadata__"]
    return metadata


def _describe(transform: Transform) -> dict[str, Any]:
    """Class and parameters as JSON knows them; a chain lists its steps."""
    name = type(transform).__name__
    TRANSFORMS.load(name)  # what could not be loaded again is not saved
    if getattr(transform, "requires_fit", False) and not getattr(transform, "is_fitted", True):
        raise NotFittedError(f"{name} has learned nothing yet: call fit before saving it")
    if isinstance(transform, Chain):
        return {"class": name, "steps": [_describe(step) for step in transform.steps_]}
    return {
        "class": name,
        "params": transform.get_params(),  # type: ignore[attr-defined]  # see save_transform
        "n_features_in": getattr(transform, "n_features_in_", None),
    }


def _rebuild(tree: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Transform:
    if "steps" in tree:
        steps = []
        for place, step in enumerate(tree["steps"]):
            mine = f"{place}."
            own = {n.removeprefix(mine): t for n, t in tensors.items() if n.startswith(mine)}
            steps.append(_rebuild(step, own))
        return Chain.of_fitted(steps)
    transform = TRANSFORMS.load(tree["class"])(**tree["params"])
    transform.set_tensors(tensors)
    if tree["n_features_in"] is not None:
        transform.n_features_in_ = tree["n_features_in"]
    fitted: Transform = transform
    return fitted
