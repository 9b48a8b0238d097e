"""Hypothesis strategies for the values of matryo."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from matryo.core import Exact, Funnel, Line, Lists, Margin, Nesting, Precision, Scan, Stage
from matryo.transforms import normalize

Arrays = st.SearchStrategy[NDArray[Any]]


def vectors(
    dim: int | st.SearchStrategy[int] = 8,
    *,
    min_rows: int = 1,
    max_rows: int = 12,
    largest: float = 100.0,
    dtype: type[np.floating] = np.float32,
) -> Arrays:
    """`(n, dim)` finite vectors whose every prefix has a direction: no number is 0.

    Args:
        dim: Width, or a strategy for it.
        min_rows: Fewest rows.
        max_rows: Most rows.
        largest: Largest absolute value; the smallest is a millionth of it.
        dtype: Floating point type.
    """
    widths = st.just(dim) if isinstance(dim, int) else dim
    sizes = st.floats(
        float(dtype(largest * 1e-6)),
        float(dtype(largest)),
        width=np.finfo(dtype).bits,  # type: ignore[arg-type]  # 16, 32 or 64
    )
    numbers = st.builds(lambda size, negative: -size if negative else size, sizes, st.booleans())
    shapes = st.tuples(st.integers(min_rows, max_rows), widths)
    return shapes.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=numbers))


def unit_vectors(
    dim: int | st.SearchStrategy[int] = 8, *, min_rows: int = 1, max_rows: int = 12
) -> Arrays:
    """`(n, dim)` float32 vectors of length 1, none of whose prefixes is zero."""
    return vectors(dim, min_rows=min_rows, max_rows=max_rows).map(normalize)


def nestings(full_dim: int) -> st.SearchStrategy[Nesting]:
    """Nestings that end at `full_dim`."""
    smaller = st.sets(st.integers(1, full_dim - 1), max_size=6) if full_dim > 1 else st.just(set())
    return smaller.map(lambda dims: Nesting((*sorted(dims), full_dim)))


@st.composite
def funnels(draw: st.DrawFn, *, max_dim: int = 1024, max_keep: int = 2000) -> Funnel:
    """Funnels of one to four stages, `keep` never growing, with and without lists and stop rule."""
    keeps = draw(st.lists(st.integers(1, max_keep), min_size=1, max_size=4))
    lists = st.builds(Lists, st.integers(1, max_dim), st.integers(1, 64))
    first_access = draw(st.one_of(st.just(Scan()), lists))
    stages = [
        Stage(
            dim=draw(st.integers(1, max_dim)),
            keep=keep,
            precision=draw(st.sampled_from(Precision)),
            access=Scan() if place else first_access,
        )
        for place, keep in enumerate(sorted(keeps, reverse=True))
    ]
    number = st.floats(-10, 10)
    line = st.builds(Line, number, number, st.floats(0, 10))
    margin = st.builds(
        Margin,
        probe=st.integers(min(keeps), max_keep),
        width=number,
        lines=st.tuples(*[line] * (len(stages) - 1)),
    )
    return Funnel(tuple(stages), draw(st.one_of(st.just(None), st.just(Exact()), margin)))


def ids(n_rows: int) -> st.SearchStrategy[list[str] | list[int]]:
    """`n_rows` ids without repeats: unicode of every kind, long texts, or integers of any size."""
    texts = st.one_of(
        st.text(max_size=20),
        st.text(st.characters(categories=["L", "S", "Z", "Cc", "Cf", "Co", "Cn"])),
        st.integers(0, 2**64).map(lambda number: f"{number:x}" * 300),
    )
    return st.one_of(
        st.lists(texts, min_size=n_rows, max_size=n_rows, unique=True),
        st.lists(st.integers(), min_size=n_rows, max_size=n_rows, unique=True),
    )
