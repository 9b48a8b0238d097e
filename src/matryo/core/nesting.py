"""The ordered prefix lengths of a nested embedding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from matryo.core.errors import DimError


def check_dim(dim: object, full_dim: int) -> int:
    """Return `dim` as an int if it is a whole number from 1 to `full_dim`.

    Raises:
        DimError: it is not.
    """
    try:
        number = int(dim)  # type: ignore[call-overload]
        whole = number == dim and not isinstance(dim, (bool, str))
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or not 1 <= number <= full_dim:
        raise DimError(
            f"dim must be a whole number between 1 and {full_dim} (the width of these vectors), "
            f"got {dim!r}",
            dim=dim,
            full_dim=full_dim,
        )
    return int(number)


@dataclass(frozen=True, slots=True)
class Nesting:
    """Ascending prefix lengths (`dims`), each of which is an embedding by itself.

    The last dim is the width of what is stored or scored. Two successive dims bound a *block*.

    Raises:
        DimError: no dims; one below 1; or an order that is not strictly ascending.

    Examples:
        >>> Nesting.parse("64, 256,768").blocks
        [(0, 64), (64, 256), (256, 768)]
    """

    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.dims:
            raise DimError("expected at least one dim, got none", dims=self.dims)
        for dim in self.dims:
            if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
                raise DimError(
                    f"every dim must be a whole number of at least 1, got {dim!r} "
                    f"in {_join(self.dims)}",
                    dims=self.dims,
                )
        for smaller, larger in zip(self.dims, self.dims[1:], strict=False):
            if larger == smaller:
                raise DimError(f"dims must not repeat, got {larger} twice", dims=self.dims)
            if larger < smaller:
                raise DimError(
                    f"dims must ascend, got {larger} after {smaller}",
                    hint=f"write them as {_join(sorted(set(self.dims)))}",
                    dims=self.dims,
                )

    @classmethod
    def parse(cls, dims: str | Iterable[int], *, full_dim: int | None = None) -> Nesting:
        """Read dims from text (`"64,256"`) or numbers; `full_dim` bounds them where it is given.

        Raises:
            DimError: as the class, or a dim above `full_dim`.
        """
        if isinstance(dims, str):
            parts = [part.strip() for part in dims.split(",") if part.strip()]
            try:
                numbers = [int(part) for part in parts]
            except ValueError:
                raise DimError(
                    f"expected dims as whole numbers with commas, as in 64,256, got {dims!r}",
                    dims=dims,
                ) from None
        else:
            # numpy integers are numbers too; floats and booleans are left for the check to refuse
            numbers = [d if isinstance(d, (bool, float, str)) else int(d) for d in dims]
        nesting = cls(tuple(numbers))
        if full_dim is not None:
            check_dim(nesting.dims[-1], full_dim)
        return nesting

    @classmethod
    def halving(cls, full_dim: int, *, smallest: int = 16) -> Nesting:
        """Powers of two from `smallest` up, then `full_dim`: the sizes shown by default."""
        if smallest < 1:
            raise DimError(f"smallest must be at least 1, got {smallest}")
        dims = [full_dim]
        power = smallest
        while power < full_dim:
            dims.append(power)
            power *= 2
        return cls(tuple(sorted(set(dims))))

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """`(start, stop)` of the dimensions between successive dims."""
        return list(zip((0, *self.dims[:-1]), self.dims, strict=True))

    @property
    def full_dim(self) -> int:
        """The last dim: the whole width."""
        return self.dims[-1]

    def __iter__(self) -> Iterator[int]:
        return iter(self.dims)

    def __len__(self) -> int:
        return len(self.dims)

    def __str__(self) -> str:
        return _join(self.dims)


def _join(dims: Iterable[object]) -> str:
    return ",".join(str(dim) for dim in dims)
