"""What a funnel costs in bytes, time, memory and money, before it runs anywhere.

Bytes and rows are counted; times are modelled by a `Machine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from matryo.core import (
    Exact,
    Funnel,
)
from matryo.planning.machine import Machine, bytes_per_row, check_number, rows_read


@dataclass(frozen=True, slots=True)
class Prices:
    """What memory costs, in any currency.

    Attributes:
        ram_gb_month: Price of 10⁹ bytes of RAM for a month.
        disk_gb_month: Price of 10⁹ bytes on disk for a month.

    Raises:
        InputError: a price that is negative or not finite.
    """

    ram_gb_month: float
    disk_gb_month: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_number(name, value)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one funnel costs on one machine.

    Attributes:
        bytes_read: Mean bytes of codes read for a query.
        rows_read: Mean number of rows that each stage reads.
        latency_ms: Usual latency of a query with everything in memory, on a machine with nothing
            else to do; None where it is not known.
        latency_p95_ms: Its 95th percentile; waiting for a processor that others use is left out.
        latency_cold_ms: Latency if the rows of the last stage have to be read from disk.
        ram_bytes: Ids, and the codes of every stage but the last; of a single stage, its codes.
        disk_bytes: Ids, and the codes of every stage.
        price_per_million: Price of a million rows for a month, or None without prices.
        origin: Whether the latencies were modelled or measured.
    """

    bytes_read: float
    rows_read: tuple[float, ...]
    latency_ms: float | None
    latency_p95_ms: float | None
    latency_cold_ms: float | None
    ram_bytes: int
    disk_bytes: int
    price_per_million: float | None = None
    origin: Literal["modelled", "measured"] = "modelled"


def cost(
    funnel: Funnel,
    n_rows: int,
    machine: Machine,
    *,
    rows: Sequence[float] | None = None,
    prices: Prices | None = None,
) -> Cost:
    """Say what a funnel over `n_rows` vectors costs on a machine.

    Every stage keeps and reads its own codes, also where a longer prefix of the same precision
    contains a shorter one; two stages of one dim and precision share theirs. With an exact stop,
    where every number is stored once, a little more is read than is counted: the best rows of a
    stage are read to the end at once.

    Args:
        funnel: What would run.
        n_rows: How many rows there are to search.
        machine: Where it would run.
        rows: Mean number of rows that enter each stage. By default all rows, then as many as the
            stage before keeps; a funnel with a stop rule needs the numbers that were measured.
        prices: What memory costs.

    Raises:
        InputError: no row; a stop rule without `rows`; or `rows` that do not fit.
        UnsupportedError: inverted lists, whose cost is not modelled.
    """
    entering = rows_read(funnel, n_rows, rows)
    sizes = bytes_per_row(funnel)
    several = len(sizes) > 1
    ids = n_rows * machine.row_overhead_bytes
    ram = ids + n_rows * _stored(funnel, sizes[:-1] if several else sizes)
    disk = ids + n_rows * _stored(funnel, sizes)

    latency = machine.latency_ms(funnel, entering)
    cold = latency
    if latency is not None and several:
        cold = None
        if machine.cold_read_us is not None and machine.cold_byte_ns is not None:
            read_us = machine.cold_read_us + sizes[-1] * machine.cold_byte_ns / 1e3
            cold = latency + entering[-1] * read_us / 1e3
    price = None
    if prices is not None:
        month = (ram * prices.ram_gb_month + disk * prices.disk_gb_month) / 1e9
        price = month / n_rows * 1e6
    return Cost(
        bytes_read=sum(count * size for count, size in zip(entering, sizes, strict=True)),
        rows_read=entering,
        latency_ms=latency,
        latency_p95_ms=None if latency is None else latency * machine.p95_ratio,
        latency_cold_ms=cold,
        ram_bytes=ram,
        disk_bytes=disk,
        price_per_million=price,
    )


def _stored(funnel: Funnel, sizes: Sequence[int]) -> int:
    """Bytes of a row that these first stages keep; what is the same is kept once."""
    if isinstance(funnel.stop, Exact):
        return sum(sizes)
    levels = [(stage.dim, stage.precision) for stage in funnel.stages]
    return sum(dict(zip(levels, sizes, strict=False)).values())
