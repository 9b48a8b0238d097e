"""Which embedding space vectors belong to, and its fingerprint.

Scores between two spaces mean nothing, yet they look like scores. Every file, plan, cache key and
error therefore carries the fingerprint of its space, and every join compares them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal

from matryo.core.errors import InputError, SpaceMismatchError

Metric = Literal["cosine", "dot", "l2"]
METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")


class Side(StrEnum):
    """Whether a text or vector asks (`query`) or answers (`document`)."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class SideSpec:
    """What happens to one side on its way into the space.

    Attributes:
        prompt: Text put before every input.
        pre_step: Step on the full vector before any cut, by its name in `matryo.transforms`
            (nomic-embed-text-v1.5 needs `"layer_norm"`), or None.
        map: Digest of the map (rotation or adaptor) applied to the vectors, or None.
    """

    prompt: str = ""
    pre_step: str | None = None
    map: str | None = None


@dataclass(frozen=True, slots=True)
class Space:
    """An embedding space: vectors may only meet if they come from one.

    Side, dim and precision are not part of it; they are recorded beside it, since one space holds
    many.

    Attributes:
        model: Name of the model.
        full_dim: Width of a whole vector.
        revision: Version, commit or hash of the weights; empty if nobody knows.
        metric: What scores two whole vectors: `"cosine"`, `"dot"` or `"l2"`.
        score: Rule that scores prefixes. `"prefix"`: the metric itself on the prefixes; for cosine
            that means prefixes scaled to length 1 again.
        query: What happens to queries.
        document: What happens to documents.
    """

    model: str
    full_dim: int
    revision: str = ""
    metric: Metric = "cosine"
    score: str = "prefix"
    query: SideSpec = field(default_factory=SideSpec)
    document: SideSpec = field(default_factory=SideSpec)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(
                f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}",
                metric=self.metric,
            )
        if isinstance(self.full_dim, bool) or not isinstance(self.full_dim, int):
            raise InputError(f"full_dim must be a whole number, got {self.full_dim!r}")
        if self.full_dim < 1:
            raise InputError(f"full_dim must be at least 1, got {self.full_dim}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Space:
        """Build a space from `to_dict`'s values.

        Raises:
            InputError: a field is missing, unknown, or of the wrong type.
        """
        try:
            sides: dict[str, Any] = {
                name: SideSpec(**values[name]) for name in ("query", "document")
            }
            return cls(**{**values, **sides})
        except (KeyError, TypeError) as error:
            raise InputError(f"expected the fields of a Space, got a mismatch: {error}") from error

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits over every field of both sides."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]

    def describe(self) -> str:
        """One line for people: model, width, and whatever departs from plain use."""
        parts = [f"{self.model} @ {self.full_dim}"]
        if self.revision:
            parts.append(f"revision {self.revision[:12]}")
        if self.metric != "cosine":
            parts.append(self.metric)
        for name, side in (("query", self.query), ("document", self.document)):
            parts += [
                f"{name} {item.name} {getattr(side, item.name)!r}"
                for item in fields(side)
                if getattr(side, item.name)
            ]
        return ", ".join(parts)

    def require_same(self, other: Space, *, here: str, there: str) -> None:
        """Raise unless `other` is this space.

        Args:
            other: The space that meets this one.
            here: What holds this space, for the message ("this index holds").
            there: What holds the other one ("the query comes from").

        Raises:
            SpaceMismatchError: they differ; `fields` names where.
        """
        if self.fingerprint == other.fingerprint:
            return
        mine, yours = self.to_dict(), other.to_dict()
        different = [name for name in mine if mine[name] != yours[name]]
        raise SpaceMismatchError(
            f"{here} {self.describe()}, {there} {other.describe()}: their scores mean nothing "
            f"(they differ in {', '.join(different)})",
            hint="encode both with one model and the same settings",
            fields=different,
        )
