"""Decisions as values: what to run, what it promises, and the evidence behind it.

Planning makes a `Plan`; the index, every store, the server and the report take it. Nothing here
computes anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from matryo.core.errors import FormatError, InputError, UnknownNameError
from matryo.core.files import write_atomically
from matryo.core.precision import Precision
from matryo.core.space import Space

PLAN_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Scan:
    """Read every row."""


@dataclass(frozen=True, slots=True)
class Lists:
    """Read only the `probes` nearest inverted lists, clustered on the first `dim` numbers."""

    dim: int
    probes: int

    def __post_init__(self) -> None:
        if self.dim < 1 or self.probes < 1:
            raise InputError(
                f"lists need dim and probes of at least 1, got dim {self.dim}, probes {self.probes}"
            )


@dataclass(frozen=True, slots=True)
class Exact:
    """Stop rule: go on until the full-width top-k is certain by bounds on the unread numbers."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a search: score the first `dim` numbers, keep the best `keep` rows.

    Attributes:
        dim: Prefix length scored.
        keep: How many rows go on to the next stage, or are the answer.
        precision: Number format of the stored codes that are scored.
        access: How rows are reached. Only the first stage of a funnel may use `Lists`.
    """

    dim: int
    keep: int
    precision: Precision = Precision.FLOAT32
    access: Scan | Lists = Scan()

    def __post_init__(self) -> None:
        if self.dim < 1 or self.keep < 1:
            raise InputError(
                f"a stage needs dim and keep of at least 1, got dim {self.dim}, keep {self.keep}"
            )

    def __str__(self) -> str:
        precision = "" if self.precision is Precision.FLOAT32 else f"@{self.precision}"
        lists = (
            f"[{self.access.dim}x{self.access.probes}]" if isinstance(self.access, Lists) else ""
        )
        return f"{self.dim}{precision}{lists}:{self.keep}"


_STAGE = re.compile(
    r"(?P<dim>\d+)(?:@(?P<precision>\w+))?(?:\[(?P<lists>\d+)x(?P<probes>\d+)\])?:(?P<keep>\d+)"
)


@dataclass(frozen=True, slots=True)
class Funnel:
    """Stages of a search, each over the rows that the one before kept.

    Text form: `64@int8:500,768:10`, that is 64 numbers as int8 keep 500 rows, then 768 numbers as
    float32 keep 10. `64@int8[64x8]:500` reads 8 inverted lists; a last part `exact` is the stop
    rule.

    Raises:
        InputError: no stage, a `keep` that grows, or lists after the first stage.
    """

    stages: tuple[Stage, ...]
    stop: Exact | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("expected at least one stage, got none")
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if after.keep > before.keep:
                raise InputError(
                    f"a stage cannot keep more rows than it is given: {after} after {before}"
                )
            if isinstance(after.access, Lists):
                raise InputError(f"only the first stage may read lists, got {after}")

    @classmethod
    def parse(cls, text: str) -> Funnel:
        """Read the text form.

        Raises:
            InputError: the text, or the funnel it describes, does not fit.
        """
        parts = [part.strip() for part in text.split(",")]
        stop = Exact() if parts[-1] == "exact" else None
        stages = []
        for part in parts[:-1] if stop else parts:
            match = _STAGE.fullmatch(part)
            if match is None:
                raise InputError(
                    f"expected stages as dim@precision:keep, as in 64@int8:500,768:10, "
                    f"got {part!r} in {text!r}"
                )
            access = Lists(int(match["lists"]), int(match["probes"])) if match["lists"] else Scan()
            precision = Precision.parse(match["precision"] or "float32")
            stages.append(Stage(int(match["dim"]), int(match["keep"]), precision, access))
        return cls(tuple(stages), stop)

    def __str__(self) -> str:
        parts = [str(stage) for stage in self.stages]
        return ",".join([*parts, "exact"] if self.stop else parts)


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """Where a cascade may stop: at `dims[i]` once its confidence is at least `thresholds[i]`.

    The last dim always answers, so there is one threshold fewer than dims.
    """

    dims: tuple[int, ...]
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.thresholds) != len(self.dims) - 1:
            raise InputError(
                f"{len(self.dims)} dims need {len(self.dims) - 1} thresholds, "
                f"got {len(self.thresholds)}"
            )


@dataclass(frozen=True, slots=True)
class Promise:
    """What is promised of a plan on queries like the calibration queries.

    Attributes:
        kind: `"mean"`: the mean measure is at least `floor`; `"share"`: at least a share `floor` of
            queries reach `query_floor`; `"expected"`: the expected measure is at least `floor`,
            with no confidence attached.
        measure: Name of the measure, as `"neighbor_recall@10"`.
        floor: Value from 0 to 1.
        confidence: Probability from 0 to 1 that the promise holds; None for `"expected"`.
        query_floor: What one query must reach, for `"share"`.
    """

    kind: Literal["mean", "share", "expected"]
    measure: str
    floor: float
    confidence: float | None = 0.95
    query_floor: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("mean", "share", "expected"):
            raise InputError(f"kind must be mean, share or expected, got {self.kind!r}")
        if not 0 <= self.floor <= 1:
            raise InputError(f"floor must be between 0 and 1, got {self.floor}", floor=self.floor)
        if (self.kind == "expected") != (self.confidence is None):
            raise InputError("a promise has a confidence, unless its kind is 'expected'")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise InputError(f"confidence must be between 0 and 1, got {self.confidence}")
        if (self.kind == "share") != (self.query_floor is not None):
            raise InputError("a promise of kind 'share', and no other, has a query_floor")
        if self.query_floor is not None and not 0 <= self.query_floor <= 1:
            raise InputError(f"query_floor must be between 0 and 1, got {self.query_floor}")


@dataclass(frozen=True, slots=True)
class Plan:
    """A finished decision: the space it is for, what to run there, and why.

    Attributes:
        space: Space of the vectors, after `transform`.
        run: Funnel of a search, or exit policy of a cascade.
        transform: Digest of the fitted transform to apply before, or None.
        promise: What is promised, or None.
        evidence: Plain values: calibration digest, split sizes, date, version.
    """

    space: Space
    run: Funnel | ExitPolicy
    transform: str | None = None
    promise: Promise | None = None
    evidence: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        dims = (
            [stage.dim for stage in self.run.stages]
            if isinstance(self.run, Funnel)
            else self.run.dims
        )
        if max(dims) > self.space.full_dim:
            raise InputError(
                f"this plan reads {max(dims)} numbers, its space has {self.space.full_dim}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        funnel = isinstance(self.run, Funnel)
        return {
            "format": PLAN_FORMAT,
            "space": self.space.to_dict(),
            "fingerprint": self.space.fingerprint,
            "run": {"funnel": str(self.run)} if funnel else {"exits": asdict(self.run)},
            "transform": self.transform,
            "promise": asdict(self.promise) if self.promise else None,
            "evidence": dict(self.evidence) if self.evidence is not None else None,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Build a plan from `to_dict`'s values.

        Raises:
            FormatError: written by a newer version, or a field is missing or wrong.
        """
        if values.get("format") != PLAN_FORMAT:
            raise FormatError(
                f"expected a plan of format {PLAN_FORMAT}, got {values.get('format')!r}",
                hint="a newer matryo wrote this plan: pip install -U matryo",
            )
        try:
            run = values["run"]
            return cls(
                space=Space.from_dict(values["space"]),
                run=Funnel.parse(run["funnel"])
                if "funnel" in run
                else ExitPolicy(tuple(run["exits"]["dims"]), tuple(run["exits"]["thresholds"])),
                transform=values["transform"],
                promise=Promise(**values["promise"]) if values["promise"] else None,
                evidence=values["evidence"],
            )
        except (KeyError, TypeError, InputError, UnknownNameError) as error:
            raise FormatError(f"expected the fields of a plan, got a mismatch: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON with a digest; an older file is replaced only when all is well."""
        body = self.to_dict()
        write_atomically(path, json.dumps({**body, "digest": _digest(body)}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan written by `save`.

        Raises:
            FormatError: not a plan, a newer format, or a changed byte.
        """
        try:
            values = json.loads(Path(path).read_text("utf-8"))
            found = values.pop("digest")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(
                f"{path}: expected a plan as JSON, got {error!r}", path=path
            ) from error
        if values.get("format") == PLAN_FORMAT and found != _digest(values):
            raise FormatError(
                f"{path}: this plan was changed after it was written (its digest does not match)",
                hint="make it again, or restore the file",
                path=path,
            )
        try:
            return cls.from_dict(values)
        except FormatError as error:
            raise FormatError(f"{path}: {error}", path=path) from error


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
