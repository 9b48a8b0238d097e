"""What a plan may cost, what that leaves of the candidates, and limits that contradict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations

from matryo.core import (
    InputError,
)
from matryo.planning.choices import Candidate
from matryo.planning.cost import Cost

_BINARY = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
_SIZES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, **_BINARY}
_DURATIONS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}  # in milliseconds
_QUANTITY = re.compile(
    r"\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>\w*)\s*"
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a plan may cost at most; what is None is not limited.

    Attributes:
        ram_bytes: Bytes of RAM.
        disk_bytes: Bytes on disk.
        latency_p95_ms: 95th percentile of the latency of a query, everything in memory.
        price_per_million: Price of a million rows for a month.

    Raises:
        InputError: a limit that is not a finite number above 0.
    """

    ram_bytes: float | None = None
    disk_bytes: float | None = None
    latency_p95_ms: float | None = None
    price_per_million: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} of a budget must be above 0 and finite, got {value}")

    @classmethod
    def parse(
        cls,
        *,
        ram: str | None = None,
        disk: str | None = None,
        p95: str | None = None,
        price: str | float | None = None,
    ) -> Budget:
        """Read limits as people write them.

        Args:
            ram: A size with its unit: B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB.
            disk: The same.
            p95: A duration with its unit: us, ms or s.
            price: A number, in the currency of the prices.

        Raises:
            InputError: a text that is no such quantity, or one that is not above 0.

        Examples:
            >>> Budget.parse(ram="2GB", p95="1.5 s").latency_p95_ms
            1500.0
        """
        return cls(
            ram_bytes=_quantity("ram", ram, _SIZES, "2GB or 512MiB"),
            disk_bytes=_quantity("disk", disk, _SIZES, "2GB or 512MiB"),
            latency_p95_ms=_quantity("p95", p95, _DURATIONS, "20ms or 1.5s"),
            price_per_million=_quantity(
                "price", None if price is None else str(price), {"": 1.0}, "0.25"
            ),
        )

    def fits(self, cost: Cost) -> bool:
        """Whether a cost stays within every limit. A cost that is not known does not."""
        return not self.misses(cost)

    def misses(self, cost: Cost) -> list[str]:
        """One sentence for each limit that a cost exceeds, or that it cannot be compared with."""
        no_time = "the latency is unknown, as the machine has no figures for a stage"
        no_price = "the price is unknown, as no prices were given"
        limits = [
            (cost.ram_bytes, self.ram_bytes, _SIZES, "needs {} of RAM", ""),
            (cost.disk_bytes, self.disk_bytes, _SIZES, "needs {} on disk", ""),
            (cost.latency_p95_ms, self.latency_p95_ms, _DURATIONS, "takes {} at p95", no_time),
            (
                cost.price_per_million,
                self.price_per_million,
                {"": 1.0},
                "costs {} a month for a million rows",
                no_price,
            ),
        ]
        misses = []
        for value, allowed, units, sentence, unknown in limits:
            if allowed is None or (value is not None and value <= allowed):
                continue
            needed, limit = _told_apart(value, allowed, units)
            said = unknown if value is None else sentence.format(needed)
            misses.append(f"{said}, {limit} allowed ({cost.origin})")
        return misses


def _quantity(
    name: str, text: str | None, units: Mapping[str, float], examples: str
) -> float | None:
    if text is None:
        return None
    match = _QUANTITY.fullmatch(text)
    if match is None or match["unit"] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise InputError(
            f"{name} must be a number{' with its unit' if known else ''}, as {examples}, "
            f"got {text!r}",
            hint=f"units: {known}" if known else None,
        )
    value = float(match["number"]) * units[match["unit"]]
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be above 0 and finite, got {text!r}")
    return value


def _told_apart(value: float | None, allowed: float, units: Mapping[str, float]) -> tuple[str, str]:
    """Both quantities as text, with as many digits as it takes for them to differ."""
    for digits in range(3, 17):
        texts = _shown(value or 0, units, digits), _shown(allowed, units, digits)
        if texts[0] != texts[1]:
            break
    return texts


def _shown(value: float, units: Mapping[str, float], digits: int) -> str:
    decimal = {unit: size for unit, size in units.items() if unit not in ("KB", "µs", *_BINARY)}
    fitting = [unit for unit, size in decimal.items() if size <= value]
    unit = fitting[-1] if fitting else next(iter(decimal))
    number = float(f"{value / decimal[unit]:.{digits}g}")
    return f"{number:.16g} {unit}".rstrip()


def within(seen: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """Mark what is too dear.

    Raises:
        InputError: a limit that no candidate stays within, or two that none meets together.
    """
    fits = [budget.fits(one.cost) for one in seen]
    if not any(fits):
        raise _contradiction(seen, budget)
    return [
        one if fit else replace(one, status="too dear") for one, fit in zip(seen, fits, strict=True)
    ]


def _contradiction(seen: Sequence[Candidate], budget: Budget) -> InputError:
    limits = [
        Budget(**{name: value}) for name, value in asdict(budget).items() if value is not None
    ]
    for limit in limits:
        if not any(limit.fits(one.cost) for one in seen):
            nearest = min(seen, key=lambda one: _reach(one, limit))
            return InputError(
                f"no candidate stays within this limit; the nearest is {nearest.funnel}, which "
                f"{limit.misses(nearest.cost)[0]}",
                hint="allow more, or cut the corpus or the dims down",
                funnel=str(nearest.funnel),
            )
    for one, other in combinations(limits, 2):
        if not any(one.fits(c.cost) and other.fits(c.cost) for c in seen):
            best = min((c for c in seen if one.fits(c.cost)), key=lambda c: _reach(c, other))
            return InputError(
                f"two limits contradict each other, {_named(one)} and {_named(other)}: of what "
                f"meets the first, {best.funnel} comes nearest, but {other.misses(best.cost)[0]}",
                hint="loosen one of the two",
                funnel=str(best.funnel),
            )
    return InputError(
        f"no candidate stays within all {len(limits)} limits, though any two of them can be met",
        hint="loosen one of them",
    )


def _reach(one: Candidate, limit: Budget) -> float:
    """How much of the only limit of a budget a candidate takes."""
    used = asdict(one.cost)
    return max(
        float("inf") if used[name] is None else used[name] / value
        for name, value in asdict(limit).items()
        if value is not None
    )


def _named(limit: Budget) -> str:
    name, value = next((n, v) for n, v in asdict(limit).items() if v is not None)
    return f"{name} {value:g}"
