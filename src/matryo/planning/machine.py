"""What one machine takes with one engine, and the latency that follows.

Times are modelled: a stage does known amounts of work, and a `Machine`
says what one unit of each takes on one machine and one engine. For one query on one processor,

    latency = Σ over stages of  stage_ns + dim · query_number_ns
                                + kept rows · (kept_row_ns + dim · kept_number_ns)
      and of a first stage      rows · scan_row_ns + bytes · scan_byte_ns + far · scan_far_byte_ns
      or of a later one         rows · rescore_row_ns + bytes · rescore_byte_ns
      and of an exact stop      rows · bound_row_ns

with `far` the bytes that the processor's caches do not hold. No unit is negative, so more rows,
more numbers or a longer shortlist never cost less. A machine is plain numbers in a file: a plan can
be made here for a machine elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Exact,
    FormatError,
    Funnel,
    InputError,
    Margin,
    Precision,
    Scan,
    Stage,
    TooFewError,
    UnknownNameError,
    UnsupportedError,
    write_atomically,
)

MACHINE_FORMAT = 1
KIND = "machine"

# A level of few numbers stays in the processor's caches from one query to the next, one of many
# does not; between these sizes the share that has to come from memory grows from none to all.
_NEAR, _FAR = 1 << 21, 1 << 23


@dataclass(frozen=True, slots=True)
class Rates:
    """What an engine takes for one precision, with the vectors in memory.

    Attributes:
        query_number_ns: Nanoseconds for each number of a query, whatever the rows.
        scan_row_ns: Nanoseconds for each row of a first stage.
        scan_byte_ns: Nanoseconds for each byte of its codes.
        scan_far_byte_ns: Nanoseconds more for each byte that the caches do not hold.
        rescore_row_ns: Nanoseconds to fetch and score one row of a later stage.
        rescore_byte_ns: Nanoseconds for each byte of its codes.
    """

    query_number_ns: float
    scan_row_ns: float
    scan_byte_ns: float
    scan_far_byte_ns: float
    rescore_row_ns: float
    rescore_byte_ns: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_number(name, value)


_SHARED = ("stage_ns", "kept_row_ns", "kept_number_ns", "bound_row_ns")  # whatever the precision
_Amount = tuple[Precision | None, str, float]  # whose unit, its name, how much of it


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine takes with one engine, for one query at a time on one processor.

    Attributes:
        name: The processor, or any name for the machine.
        engine: What searches there.
        version: Version of the engine.
        measured: Date, as 2026-11-25.
        processors: How many it has.
        rates: What each precision takes; a precision that is missing has no modelled latency.
        stage_ns: Nanoseconds for a stage, whatever it reads.
        kept_row_ns: Nanoseconds for each row that a stage keeps.
        kept_number_ns: Nanoseconds for each number of those rows.
        bound_row_ns: Nanoseconds for each row whose bounds an exact stop looks at.
        p95_ratio: 95th percentile of the latency over its median, of one and the same funnel.
        cold_read_us: Microseconds for a read of one row from disk at its first touch, or None.
        cold_byte_ns: Nanoseconds more for each byte of it, or None.
        row_overhead_bytes: Bytes for each row beside its codes: its id.

    Raises:
        InputError: a number that is negative, not finite, or out of its range.
    """

    name: str
    engine: str
    version: str
    measured: str
    processors: int
    rates: Mapping[Precision, Rates]
    stage_ns: float
    kept_row_ns: float
    kept_number_ns: float
    bound_row_ns: float
    p95_ratio: float
    cold_read_us: float | None = None
    cold_byte_ns: float | None = None
    row_overhead_bytes: int = 8

    def __post_init__(self) -> None:
        for name in (*_SHARED, "row_overhead_bytes"):
            check_number(name, getattr(self, name))
        check_number("processors", self.processors, least=1)
        check_number("p95_ratio", self.p95_ratio, least=1)
        if (self.cold_read_us is None) != (self.cold_byte_ns is None):
            raise InputError("cold_read_us and cold_byte_ns are known together or not at all")
        for name in ("cold_read_us", "cold_byte_ns"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))

    @classmethod
    def fitted(cls, timings: Sequence[Timing], **about: Any) -> Machine:
        """Find the units that explain measured latencies best, by non-negative least squares.

        Errors are weighed relative to the latency, so that short queries count as much as long.
        Of each funnel the lower quartile counts: whatever else a machine does only adds to it.

        Args:
            timings: Measured funnels. Every unit of every precision that occurs must play a part.
            about: The other fields of the machine.

        Raises:
            TooFewError: the timings do not tell all units apart.
        """
        from scipy.optimize import nnls

        precisions = sorted({s.precision for timing in timings for s in timing.funnel.stages})
        columns: list[tuple[Precision | None, str]] = [(None, name) for name in _SHARED]
        columns += [(p, item.name) for p in precisions for item in fields(Rates)]
        amounts = np.zeros((len(timings), len(columns)))
        for timing, row in zip(timings, amounts, strict=True):
            rows = rows_read(timing.funnel, timing.n_rows, timing.rows)
            for precision, name, amount in _amounts(timing.funnel, rows):
                row[columns.index((precision, name))] += amount
        quiet = 1e6 * np.array([np.quantile(timing.latencies_ms, 0.25) for timing in timings])
        relative = amounts / quiet[:, None]
        lengths = np.linalg.norm(relative, axis=0)
        if not lengths.all() or np.linalg.matrix_rank(relative / lengths) < len(columns):
            raise TooFewError(
                f"timings of at least {len(columns)} different funnels are needed to tell "
                f"{len(columns)} units apart, got {len(timings)} that do not",
                hint="time each precision as a first and as a later stage, of several dims and "
                "numbers of rows, with short and long shortlists, and an exact stop",
                needed=len(columns),
            )
        scaled, _ = nnls(relative / lengths, np.ones(len(timings)))
        unit = dict(zip(columns, (scaled / lengths).tolist(), strict=True))
        over_median = np.concatenate([t.latencies_ms / np.median(t.latencies_ms) for t in timings])
        return cls(
            rates={
                p: Rates(**{f.name: unit[p, f.name] for f in fields(Rates)}) for p in precisions
            },
            **{name: unit[None, name] for name in _SHARED},
            p95_ratio=float(np.quantile(over_median, 0.95)),
            **about,
        )

    def latency_ms(self, funnel: Funnel, rows: Sequence[float]) -> float | None:
        """Modelled latency with everything in memory; None for an unknown precision.

        Args:
            funnel: What runs.
            rows: Mean number of rows that enter each stage.
        """
        nanoseconds = 0.0
        for precision, name, amount in _amounts(funnel, rows):
            if precision is not None and precision not in self.rates:
                return None
            units: Machine | Rates = self if precision is None else self.rates[precision]
            nanoseconds += amount * getattr(units, name)
        return nanoseconds / 1e6

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        rates = {p.value: asdict(rates) for p, rates in self.rates.items()}
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"kind": KIND, "format": MACHINE_FORMAT, **plain, "rates": rates}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Machine:
        """Build a machine from `to_dict`'s values.

        Raises:
            FormatError: no machine, a newer format, or a field is missing or wrong.
        """
        if values.get("kind") != KIND:
            raise FormatError(f"expected kind {KIND!r}, got {values.get('kind')!r}")
        if values.get("format") != MACHINE_FORMAT:
            raise FormatError(
                f"expected a machine of format {MACHINE_FORMAT}, got {values.get('format')!r}",
                hint="a newer matryo wrote this file: pip install -U matryo",
            )
        try:
            plain = {k: v for k, v in values.items() if k not in ("kind", "format", "rates")}
            rates = {Precision.parse(p): Rates(**units) for p, units in values["rates"].items()}
            return cls(**plain, rates=rates)
        except (KeyError, TypeError, AttributeError, InputError, UnknownNameError) as error:
            raise FormatError(
                f"expected the fields of a machine, got a mismatch: {error}"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the machine as JSON with a digest; an older file is replaced only when all is well.

        Raises:
            InputError: the folder of `path` does not exist.
        """
        body = self.to_dict()
        write_atomically(path, json.dumps({**body, "digest": _digest(body)}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Machine:
        """Read a machine written by `save`.

        Raises:
            FormatError: not a machine, a newer format, or a changed byte.
        """
        try:
            values = json.loads(Path(path).read_text("utf-8"))
            found = values.pop("digest")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(
                f"{path}: expected a machine as JSON, got {error!r}", path=path
            ) from error
        if values.get("format") == MACHINE_FORMAT and found != _digest(values):
            raise FormatError(
                f"{path}: this machine was changed after it was written (its digest does not "
                "match)",
                hint="measure it again, or write what you changed with Machine.save",
                path=path,
            )
        try:
            return cls.from_dict(values)
        except FormatError as error:
            raise FormatError(f"{path}: {error}", path=path) from error


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one funnel took on one machine.

    Attributes:
        funnel: What ran.
        n_rows: How many rows it searched.
        latencies_ms: `(queries,)` milliseconds of single queries, above 0.
        rows: Mean number of rows that entered each stage; needed with a stop rule.

    Raises:
        InputError: no latency, or one that is not above 0.
    """

    funnel: Funnel
    n_rows: int
    latencies_ms: NDArray[np.float64]
    rows: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not len(self.latencies_ms) or not (np.asarray(self.latencies_ms) > 0).all():
            raise InputError(
                f"expected latencies above 0 of at least one query, got {self.latencies_ms}"
            )


def rows_read(funnel: Funnel, n_rows: int, rows: Sequence[float] | None) -> tuple[float, ...]:
    """How many rows enter each stage."""
    if n_rows < 1:
        raise InputError(f"expected at least one row to search, got {n_rows}")
    if not isinstance(funnel.stages[0].access, Scan):
        raise UnsupportedError(
            f"the cost of inverted lists is not modelled yet, got {funnel}",
            hint="leave the lists out to see what reading every row costs",
        )
    if rows is None:
        if funnel.stop is not None:
            raise InputError(
                f"how many rows pass the stop rule of {funnel} depends on the queries: expected "
                "rows, got none",
                hint="give rows, the mean number that enters each stage, as measured",
            )
        return (n_rows, *(min(stage.keep, n_rows) for stage in funnel.stages[:-1]))
    if len(rows) != len(funnel.stages):
        raise InputError(
            f"expected rows for each of the {len(funnel.stages)} stages of {funnel}, "
            f"got {len(rows)}"
        )
    for place, number in enumerate(rows):
        if not 0 <= number <= n_rows or (number == 0 and place == 0):
            raise InputError(
                f"rows must be from 0 to the {n_rows} there are, and above 0 for the first stage, "
                f"got {number} for stage {place + 1}"
            )
    return tuple(rows)


def bytes_per_row(funnel: Funnel) -> list[int]:
    """Bytes that each stage reads of a row.

    With an exact stop a stage goes on where the one before ended, and every stage but the last
    reads the length of what follows, a float32.
    """
    sizes = [stage.precision.bytes_per_vector(stage.dim) for stage in funnel.stages]
    if not isinstance(funnel.stop, Exact):
        return sizes
    blocks = [size - before for size, before in zip(sizes, [0, *sizes], strict=False)]
    return [*(block + 4 for block in blocks[:-1]), blocks[-1]]


def _amounts(funnel: Funnel, rows: Sequence[float]) -> Iterator[_Amount]:
    """The work of a query, in the units of a machine."""
    probe = funnel.stop.probe if isinstance(funnel.stop, Margin) else 0
    *earlier, last = funnel.stages
    keeps = [*(max(stage.keep, probe) for stage in earlier), last.keep]
    for i, (stage, size) in enumerate(zip(funnel.stages, bytes_per_row(funnel), strict=True)):
        yield from _stage_amounts(stage, rows[i], size, keep=keeps[i], first=not i)
        if isinstance(funnel.stop, Exact):
            yield None, "bound_row_ns", rows[i]
        if i and probe:  # the probe is scored by itself before, to see where the margin lies
            yield from _stage_amounts(stage, min(probe, rows[i]), size, keep=last.keep, first=False)


def _stage_amounts(
    stage: Stage, rows: float, size: int, *, keep: int, first: bool
) -> Iterator[_Amount]:
    kept = min(keep, rows)
    yield None, "stage_ns", 1
    yield None, "kept_row_ns", kept
    yield None, "kept_number_ns", kept * stage.dim
    yield stage.precision, "query_number_ns", stage.dim
    if not first:
        yield stage.precision, "rescore_row_ns", rows
        yield stage.precision, "rescore_byte_ns", rows * size
        return
    far = math.log(rows * stage.dim / _NEAR) / math.log(_FAR / _NEAR)
    yield stage.precision, "scan_row_ns", rows
    yield stage.precision, "scan_byte_ns", rows * size
    yield stage.precision, "scan_far_byte_ns", rows * size * min(max(far, 0.0), 1.0)


def check_number(name: str, value: float, *, least: float = 0) -> None:
    """Refuse what is no finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value >= least):
        raise InputError(f"{name} must be at least {least:g} and finite, got {value}")


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
