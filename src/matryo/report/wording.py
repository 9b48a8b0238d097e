"""How figures are written on the page and in the charts."""

from __future__ import annotations

_THIN = "\u202f"  # a narrow space that does not break, so a figure and its unit stay together


def count(number: float) -> str:
    """A whole number with its thousands apart: `12 288`."""
    return f"{number:,.0f}".replace(",", _THIN)


def percent(share: float) -> str:
    """A share to a tenth of a percent, without an empty decimal: `98 %`, `98.4 %`."""
    return f"{100 * share:.1f}".removesuffix(".0") + f"{_THIN}%"


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


def duration_ms(ms: float) -> str:
    """A duration in milliseconds with as many decimals as it has meaning for."""
    return f"{ms:.2f}{_THIN}ms" if ms < 10 else f"{count(ms)}{_THIN}ms"
