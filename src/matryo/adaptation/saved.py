"""A fitted map of both sides of a space, as a value and as a folder.

manifest.json          format number, the space that it is for and the one that it makes, sizes,
                       notes, and the size and SHA-256 of the other files; `digest` covers it
document.safetensors   the map of documents, as `matryo.transforms.save_transform` writes it
query.safetensors      the map of queries, where it is another one
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    DIGEST_LENGTH,
    MANIFEST,
    DimError,
    FormatError,
    InputError,
    Nesting,
    Side,
    SideSpec,
    Space,
    Transform,
    UnknownNameError,
    canonical,
    read_manifest,
    replacing_folder,
    sha256_of,
    write_manifest,
)
from matryo.transforms import load_transform, save_transform

FORMAT = 1
KIND = "nested-map"


@dataclass(frozen=True, slots=True, eq=False)
class NestedMap:
    """The maps of queries and documents, and the spaces on both ends of them.

    Attributes:
        query: Map of queries; the same as that of documents where one serves both.
        document: Map of documents.
        expects: Space of the vectors that go in, whole and after their pre-step.
        dims: Sizes that it was fitted for, ascending.
        notes: Method, settings and figures, plain values for JSON.
        makes: Space of the vectors that come out: `expects` with the digest of each side's map
            (over those of both maps where there was one before), and the width that they give.

    Raises:
        NotFittedError: a map that has learned nothing yet.
        DimError: maps of another width than the space, or of two widths; or dims that do not fit.
        InputError: notes that JSON cannot hold.
    """

    query: Transform
    document: Transform
    expects: Space
    dims: tuple[int, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)
    makes: Space = field(init=False)

    def __post_init__(self) -> None:
        width = _width(self.document, self.expects, Side.DOCUMENT)
        other = _width(self.query, self.expects, Side.QUERY)
        if width != other:
            raise DimError(
                f"both sides must come out with one width, got {other} numbers for queries and "
                f"{width} for documents"
            )
        made = replace(
            self.expects,
            full_dim=width,
            query=_mapped(self.expects.query, self.query),
            document=_mapped(self.expects.document, self.document),
        )
        try:
            notes = json.loads(json.dumps(dict(self.notes), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"notes must be plain values for JSON, got: {error}") from None
        dims = Nesting.parse(self.dims, full_dim=width).dims
        for name, value in (("makes", made), ("dims", dims), ("notes", notes)):
            object.__setattr__(self, name, value)

    @property
    def is_symmetric(self) -> bool:
        """Whether one map serves both sides."""
        return self.query.digest == self.document.digest

    def of(self, side: Side | str) -> Transform:
        """The map of a side.

        Raises:
            UnknownNameError: no such side.
        """
        if side not in tuple(Side):
            raise UnknownNameError.among("side", side, tuple(Side))
        return self.query if side == Side.QUERY else self.document

    def apply(
        self, vectors: NDArray[np.floating], side: Side | str, space: Space | None = None
    ) -> NDArray[np.floating]:
        """Map whole vectors of one side; cut what comes out, and scale it, as you like.

        Args:
            vectors: `(n, expects.full_dim)`, after the pre-step.
            side: `query` or `document`.
            space: Where they come from, if that is known: then it is compared.

        Returns:
            `(n, makes.full_dim)`, not scaled to length 1.

        Raises:
            SpaceMismatchError: they come from another space.
            DimError: they have another width.
            VectorError: NaN, infinity, or no floats.
        """
        chosen = self.of(side)
        if space is not None:
            self.expects.require_same(
                space, here="this map is for vectors of", there="these come from"
            )
        if vectors.ndim == 2 and vectors.shape[1] != self.expects.full_dim:
            raise DimError(
                f"this map takes whole vectors of {self.expects.full_dim} numbers "
                f"({self.expects.describe()}), got {vectors.shape[1]}",
                hint="map first, cut afterwards",
                dim=vectors.shape[1],
                full_dim=self.expects.full_dim,
            )
        return chosen.transform(vectors)

    def check_dims(self, dims: str | Iterable[int]) -> Nesting:
        """Sizes to cut to, if the map was fitted for them: none is below its smallest.

        Raises:
            DimError: one is below, or beyond the width; or they do not ascend.
        """
        wanted = Nesting.parse(dims, full_dim=self.makes.full_dim)
        if wanted.dims[0] < self.dims[0]:
            raise DimError(
                f"this map was fitted for sizes from {self.dims[0]} up "
                f"({', '.join(map(str, self.dims))}), got {wanted.dims[0]}",
                hint="choose a larger size, or fit a map with this one among its dims",
                dim=wanted.dims[0],
                fitted=self.dims,
            )
        return wanted

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the folder described in this module; an older one is replaced when all is well.

        Raises:
            InputError: `folder` exists and may not be overwritten, or holds other files.
            UnknownNameError: a map that `load_transform` could not find again.
        """
        target = Path(folder)
        if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
            raise InputError(
                f"{target}: expected a folder of a map to replace, got a folder of other files",
                hint="choose another name",
            )
        with replacing_folder(target, overwrite=overwrite) as temporary:
            save_transform(self.document, temporary / "document.safetensors")
            if not self.is_symmetric:
                save_transform(self.query, temporary / "query.safetensors")
            body = {
                "kind": KIND,
                "format": FORMAT,
                "expects": self.expects.to_dict(),
                "makes": self.makes.to_dict(),
                "fingerprints": {
                    "expects": self.expects.fingerprint,
                    "makes": self.makes.fingerprint,
                },
                "dims": list(self.dims),
                "notes": dict(self.notes),
            }
            write_manifest(temporary, body)

    @classmethod
    def load(cls, folder: str | Path) -> NestedMap:
        """Read a folder written by `save`.

        Raises:
            FormatError: not such a folder, a newer format, or a changed byte; it names the file.
            UnknownNameError: a map from a package that is not installed.
        """
        manifest = read_manifest(
            Path(folder),
            kind=KIND,
            number=FORMAT,
            what="the folder of a map",
            again="fit the map again",
        )
        for name, facts in manifest["files"].items():
            file = Path(folder) / name
            if not file.is_file() or sha256_of(file) != facts["sha256"]:
                raise FormatError(
                    f"{file}: the file is damaged (its SHA-256 does not match the manifest)"
                    if file.is_file()
                    else f"{file}: expected {facts['bytes']} bytes, got no file",
                    hint="restore the folder, or fit the map again",
                    path=file,
                )
        document = load_transform(Path(folder) / "document.safetensors")
        query = document
        if "query.safetensors" in manifest["files"]:
            query = load_transform(Path(folder) / "query.safetensors")
        expects = Space.from_dict(manifest["expects"])
        loaded = cls(query, document, expects, tuple(manifest["dims"]), manifest["notes"])
        if loaded.makes.fingerprint != manifest["fingerprints"]["makes"]:
            raise FormatError(
                f"{folder}: its maps make another space than its manifest says",
                hint="restore the folder, or fit the map again",
                path=Path(folder),
            )
        return loaded


def _width(transform: Transform, expects: Space, side: Side) -> int:
    """Numbers that come out for every whole vector; found by mapping one."""
    wanted = getattr(transform, "n_features_in_", expects.full_dim)
    if wanted != expects.full_dim:
        raise DimError(
            f"the map of the {side} side takes {wanted} numbers, vectors of its space "
            f"({expects.describe()}) have {expects.full_dim}",
            dim=wanted,
            full_dim=expects.full_dim,
        )
    probe = np.cos(np.arange(expects.full_dim, dtype=np.float32))[None]
    return int(transform.transform(probe).shape[1])


def _mapped(spec: SideSpec, transform: Transform) -> SideSpec:
    digest = transform.digest
    if spec.map is not None:
        both = hashlib.sha256(canonical([spec.map, digest]))
        digest = both.hexdigest()[:DIGEST_LENGTH]
    return replace(spec, map=digest)
