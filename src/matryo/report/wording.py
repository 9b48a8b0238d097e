"""How figures are written on the page and in the charts."""

from __future__ import annotations

from collections.abc import Sequence

from matryo.core import Funnel

_THIN = "\u202f"  # a narrow space that does not break, so a figure and its unit stay together


def count(number: float) -> str:
    """A whole number with its thousands apart: `12 288`."""
    return f"{number:,.0f}".replace(",", _THIN)


def percent(share: float) -> str:
    """A measured share, to a tenth of a percent: `98.4 %`."""
    return f"{100 * share:.1f}{_THIN}%"


def level(share: float) -> str:
    """A share that somebody set, as short as it is: `98 %`, `99.5 %`."""
    return f"{100 * share:.4g}{_THIN}%"


def interval(low: float, high: float) -> str:
    """The two ends of an interval to three decimals."""
    return f"{low:.3f} … {high:.3f}"


def percent_interval(low: float, high: float) -> str:
    """The two ends of an interval of shares, the unit said once."""
    return f"{100 * low:.1f} … {100 * high:.1f}{_THIN}%"


def signed(number: float) -> str:
    """A difference to three decimals that always shows its sign."""
    return f"{number:+.3f}".replace("-", "\u2212")


def times_smaller(size: int, widest: int) -> str:
    """How many times `size` goes into `widest`: `24×`, `1.5×`."""
    ratio = widest / size
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}".removesuffix(".0") + "×"


def size_bytes(number: float) -> str:
    """A number of bytes in the unit of 1000 that suits it: `640 B`, `396.7 kB`, `4.3 MB`."""
    size, unit = float(number), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f}{_THIN}B" if unit == "B" else f"{size:.1f}{_THIN}{unit}"


def duration_ms(ms: float) -> str:
    """A duration in milliseconds with as many decimals as it has meaning for."""
    return f"{ms:.2f}{_THIN}ms" if ms < 10 else f"{count(ms)}{_THIN}ms"


def short_bytes(number: float) -> str:
    """A round number of bytes, as short as it is: `20 kB`."""
    power = min(max(int(f"{number:e}".split("e")[1]) // 3, 0), 3)
    return f"{number / 1000**power:g}{_THIN}{('B', 'kB', 'MB', 'GB')[power]}"


def p_value(p: float) -> str:
    """A p-value to three decimals: `0.012`, `< 0.001`."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def joined(names: Sequence[str]) -> str:
    """Names as one speaks them: `cheap, balanced and safe`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def without_stop(funnel: str) -> str:
    """The text of a funnel without the numbers of its stop rule."""
    read = Funnel.parse(funnel)
    return str(Funnel(read.stages)) + (" stopping early" if read.stop else "")
