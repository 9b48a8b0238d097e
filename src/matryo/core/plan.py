"""Decisions as values: what to run, what it promises, and the evidence behind it.

Planning makes a `Plan`; the index, every store, the server and the report take it. Nothing here
computes anything.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matryo.core.errors import DimError, FormatError, InputError, UnknownNameError
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
    """Stop rule: go on until the full-width top-k is certain by bounds on the unread numbers.

    The dims of the stages are where the bounds are looked at. A stage passes on at least the rows
    it keeps, and every other row that the bounds cannot rule out.
    """


@dataclass(frozen=True, slots=True)
class Line:
    """Where the score of a neighbor lies at one stage, seen from the stage after it.

    Of a row that belongs to the answer, `score - slope * bar` has mean `level` and standard
    deviation `spread`, `bar` being the k-th best score at the next stage among the first rows.
    """

    slope: float
    level: float
    spread: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.slope, self.level, self.spread))) or self.spread < 0:
            raise InputError(
                f"a line needs finite numbers and a spread of at least 0, got {self.slope}, "
                f"{self.level}, {self.spread}"
            )


@dataclass(frozen=True, slots=True)
class Margin:
    """Stop rule: only queries that need it go on with many rows.

    After every stage but the last, the best `probe` rows are scored at the next stage, and the k-th
    best of those scores, k being what the last stage keeps, is the bar. Beside the probe, a row
    goes on if it is among the best `keep` and its score is at least
    `line.slope * bar + line.level - width * line.spread`. A larger `width` lets more rows pass.

    Attributes:
        probe: Rows scored at the next stage in any case; at least what the last stage keeps.
        width: How many standard deviations below its usual score a row may lie.
        lines: One for each stage but the last.
    """

    probe: int
    width: float
    lines: tuple[Line, ...]

    def __post_init__(self) -> None:
        if self.probe < 1 or not math.isfinite(self.width):
            raise InputError(
                f"a margin needs a probe of at least 1 and a finite width, got probe {self.probe}, "
                f"width {self.width}"
            )

    def __str__(self) -> str:
        lines = "".join(f";{x.slope!r}/{x.level!r}/{x.spread!r}" for x in self.lines)
        return f"margin[{self.probe};{self.width!r}{lines}]"

    @classmethod
    def parse(cls, text: str) -> Margin:
        """Read the text form, `margin[probe;width;slope/level/spread;...]`.

        Raises:
            InputError: the text does not fit.
        """
        try:
            inside = text.removeprefix("margin[").removesuffix("]")
            probe, width, *lines = inside.split(";")
            first, second = int(probe), float(width)
            numbers = [[float(number) for number in line.split("/")] for line in lines]
            slopes, levels, spreads = zip(*numbers, strict=True) if numbers else ((), (), ())
        except ValueError as error:
            raise InputError(
                f"expected a stop rule as margin[probe;width;slope/level/spread], got {text!r}"
            ) from error
        return cls(first, second, tuple(map(Line, slopes, levels, spreads)))


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
    float32 keep 10. `64@int8[64x8]:500` reads 8 inverted lists; a last part `exact` or
    `margin[...]` is the stop rule.

    Raises:
        InputError: no stage, a `keep` that grows, lists after the first stage, a margin without a
            line for every stage but the last, or one that probes fewer rows than are asked for.
    """

    stages: tuple[Stage, ...]
    stop: Exact | Margin | None = None

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
        if isinstance(self.stop, Margin):
            if len(self.stop.lines) != len(self.stages) - 1:
                raise InputError(
                    f"a margin needs one line for each of the first {len(self.stages) - 1} stages, "
                    f"got {len(self.stop.lines)}"
                )
            if self.stop.probe < self.stages[-1].keep:
                raise InputError(
                    f"a margin must probe at least the {self.stages[-1].keep} rows asked for, "
                    f"got {self.stop.probe}"
                )

    @classmethod
    def parse(cls, text: str) -> Funnel:
        """Read the text form.

        Raises:
            InputError: the text, or the funnel it describes, does not fit.
        """
        parts = [part.strip() for part in text.split(",")]
        stop: Exact | Margin | None = None
        if parts[-1] == "exact":
            stop = Exact()
        elif parts[-1].startswith("margin["):
            stop = Margin.parse(parts[-1])
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
        if self.stop is not None:
            parts.append("exact" if isinstance(self.stop, Exact) else str(self.stop))
        return ",".join(parts)


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """Where a cascade may stop: at `dims[i]` once its signal is at least `thresholds[i]`.

    The last dim always answers, so there is one threshold fewer than dims. A threshold above 1 is
    never reached: the dim is passed over.

    Attributes:
        dims: Ascending prefix lengths.
        thresholds: From 0 up, one for each dim but the last.
        signal: What is compared with the threshold: the `probability` of the likeliest class, or
            its `margin` over the second.
    """

    dims: tuple[int, ...]
    thresholds: tuple[float, ...]
    signal: Literal["probability", "margin"] = "probability"

    def __post_init__(self) -> None:
        if not self.dims or list(self.dims) != sorted({*self.dims}) or self.dims[0] < 1:
            raise DimError(f"expected ascending dims of at least 1, got {list(self.dims)}")
        if self.signal not in ("probability", "margin"):
            raise InputError(f"signal must be probability or margin, got {self.signal!r}")
        if len(self.thresholds) != len(self.dims) - 1:
            raise InputError(
                f"{len(self.dims)} dims need {len(self.dims) - 1} thresholds, "
                f"got {len(self.thresholds)}"
            )
        if not all(value >= 0 for value in self.thresholds):
            raise InputError(f"thresholds must be at least 0, got {list(self.thresholds)}")


@dataclass(frozen=True, slots=True)
class Promise:
    """What is promised of a plan on queries like the calibration queries.

    Attributes:
        kind: `"mean"`: the mean measure is at least `floor` times that of the full width;
            `"share"`: at least a share `floor` of queries reach `query_floor` times their own value
            at full width; `"expected"`: the expected measure is at least `floor`, with no
            confidence attached.
        measure: Name of the measure, as `"neighbor_recall@10"` (fidelity, whose value at full
            width is 1), `"nDCG@10"` (relevance) or `"accuracy"`. It is the truth that the promise
            is about.
        floor: Value from 0 to 1.
        confidence: Probability from 0 to 1 that the promise holds; None for `"expected"`.
        query_floor: What one query must reach, for `"share"`.
        groups: Names of the groups of queries in each of which the promise holds; empty if it is
            about all queries together.
    """

    kind: Literal["mean", "share", "expected"]
    measure: str
    floor: float
    confidence: float | None = 0.95
    query_floor: float | None = None
    groups: tuple[str, ...] = ()

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
class Threshold:
    """A similarity threshold at full width, and what the scores of a plan say of it.

    Attributes:
        full: The least full-width score of a row that is given back.
        scores: Ascending scores of the plan's last stage.
        full_scores: The full-width score that each of them stands for, never falling; linear in
            between, and constant beyond the ends.
    """

    full: float
    scores: tuple[float, ...]
    full_scores: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = len(self.scores) == len(self.full_scores) >= 2 and all(
            a < b for a, b in zip(self.scores, self.scores[1:], strict=False)
        )
        if not rising or list(self.full_scores) != sorted(self.full_scores):
            raise InputError(
                "a threshold needs at least two ascending scores and, for each, a full-width score "
                f"that never falls, got {len(self.scores)} and {len(self.full_scores)}"
            )
        if not math.isfinite(self.full):
            raise InputError(f"threshold must be a finite score, got {self.full}")


@dataclass(frozen=True, slots=True)
class Plan:
    """A finished decision: the space it is for, what to run there, and why.

    Attributes:
        space: Space of the vectors, after `transform`.
        run: Funnel of a search, or exit policy of a cascade.
        transform: Digest of the fitted transform to apply before, or None.
        promise: What is promised, or None.
        evidence: Plain values: calibration digest, split sizes, costs, neighbors, date, version.
        threshold: Rows below it are left out of the answer, or None.
        scales: int8 steps, `(dim,)` float32, for each dim that has an int8 stage: codes made with
            other steps would be scored differently. They are kept in a `.safetensors` file beside
            the plan.
    """

    space: Space
    run: Funnel | ExitPolicy
    transform: str | None = None
    promise: Promise | None = None
    evidence: Mapping[str, Any] | None = None
    threshold: Threshold | None = None
    scales: Mapping[int, NDArray[np.float32]] = field(default_factory=dict, compare=False)

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
        for dim, steps in self.scales.items():
            if steps.shape != (dim,) or steps.dtype != np.float32:
                raise DimError(
                    f"expected int8 steps of shape ({dim},) in float32, got {steps.shape} in "
                    f"{steps.dtype}",
                    dim=dim,
                )

    def explain(self) -> str:
        """Five lines of plain words: what, its promise, its cost, its neighbors, its evidence."""
        told = (self.evidence or {}).get("explanation")
        if not told:
            return f"{self.run}\nnothing is recorded about how this plan was chosen"
        return "\n".join(told)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back.

        The int8 steps are named by their SHA-256; `save` writes them beside the JSON.
        """
        funnel = isinstance(self.run, Funnel)
        return {
            "format": PLAN_FORMAT,
            "space": self.space.to_dict(),
            "fingerprint": self.space.fingerprint,
            "run": {"funnel": str(self.run)} if funnel else {"exits": asdict(self.run)},
            "transform": self.transform,
            "promise": asdict(self.promise) if self.promise else None,
            "evidence": dict(self.evidence) if self.evidence is not None else None,
            "threshold": asdict(self.threshold) if self.threshold else None,
            "scales": {str(dim): _sha256(steps) for dim, steps in sorted(self.scales.items())},
        }

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], scales: Mapping[int, NDArray[np.float32]] | None = None
    ) -> Plan:
        """Build a plan from `to_dict`'s values.

        Args:
            values: What `to_dict` gave.
            scales: The int8 steps that the values name.

        Raises:
            FormatError: written by a newer version, or a field is missing or wrong.
        """
        if values.get("format") != PLAN_FORMAT:
            raise FormatError(
                f"expected a plan of format {PLAN_FORMAT}, got {values.get('format')!r}",
                hint="a newer matryo wrote this plan: pip install -U matryo",
            )
        try:
            run, promise, threshold = values["run"], values["promise"], values["threshold"]
            plan = cls(
                space=Space.from_dict(values["space"]),
                run=Funnel.parse(run["funnel"])
                if "funnel" in run
                else ExitPolicy(
                    tuple(run["exits"]["dims"]),
                    tuple(run["exits"]["thresholds"]),
                    run["exits"]["signal"],
                ),
                transform=values["transform"],
                promise=Promise(**{**promise, "groups": tuple(promise["groups"])})
                if promise
                else None,
                evidence=values["evidence"],
                threshold=Threshold(
                    threshold["full"],
                    tuple(threshold["scores"]),
                    tuple(threshold["full_scores"]),
                )
                if threshold
                else None,
                scales=dict(scales or {}),
            )
        except (KeyError, TypeError, AttributeError, InputError, UnknownNameError) as error:
            raise FormatError(f"expected the fields of a plan, got a mismatch: {error}") from error
        if plan.to_dict()["scales"] != values["scales"]:
            raise FormatError(
                f"expected int8 steps for the dims {', '.join(values['scales']) or 'none'} as this "
                f"plan names them, got {', '.join(map(str, plan.scales)) or 'none'} or others"
            )
        return plan

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON with a digest; an older file is replaced only when all is well.

        int8 steps go into a file of the same name that ends in `.safetensors`, written first.
        """
        if self.scales:
            from safetensors.numpy import save

            tensors = {str(dim): np.ascontiguousarray(s) for dim, s in sorted(self.scales.items())}
            write_atomically(Path(path).with_suffix(".safetensors"), save(tensors))
        body = self.to_dict()
        write_atomically(path, json.dumps({**body, "digest": _digest(body)}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan written by `save`.

        Raises:
            FormatError: not a plan, a newer format, a changed byte, or int8 steps that are missing.
        """
        try:
            values = json.loads(Path(path).read_text("utf-8"))
            found = values.pop("digest")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(
                f"{path}: expected a plan as JSON, got {error!r}", path=path
            ) from error
        known = values.get("format") == PLAN_FORMAT
        if known and found != _digest(values):
            raise FormatError(
                f"{path}: this plan was changed after it was written (its digest does not match)",
                hint="make it again, or restore the file",
                path=path,
            )
        try:
            return cls.from_dict(values, _load_scales(path) if known and values["scales"] else {})
        except KeyError as error:
            raise FormatError(f"{path}: this plan lacks {error}", path=path) from error
        except FormatError as error:
            raise FormatError(f"{path}: {error}", path=path) from error


def _load_scales(path: str | Path) -> dict[int, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    beside = Path(path).with_suffix(".safetensors")
    try:
        return {int(name): steps for name, steps in load(beside.read_bytes()).items()}
    except FileNotFoundError:
        raise FormatError(
            f"expected the int8 steps of this plan in {beside.name} beside it, found no such file",
            hint="keep both files together, or make the plan again",
        ) from None
    except (SafetensorError, ValueError) as error:
        raise FormatError(f"expected int8 steps in {beside.name}, got {error!r}") from error


def _sha256(steps: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(steps, "<f4").tobytes()).hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
