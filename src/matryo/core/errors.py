"""Every error that matryo raises.

    MatryoError
    ├── InputError (ValueError)           the caller gave something that cannot be used
    │   ├── DimError                      a dim, or a list of dims, that does not fit
    │   ├── VectorError                   vectors that are not finite, zero, or of the wrong shape
    │   ├── SpaceMismatchError            vectors of two embedding spaces meet
    │   └── TooFewError                   not enough data to say anything
    ├── NotFittedError (ValueError)       transform before fit
    ├── FormatError (ValueError)          a file that is not ours, too new, or damaged
    ├── UnknownNameError (LookupError)    no such encoder, store, measure or preset
    ├── MissingExtraError (ImportError)   the name is known, its package is not installed
    ├── UnsupportedError (NotImplementedError)
    └── EndpointError (RuntimeError)      a server refused or answered nonsense

A message says what was expected, what came and where, and what to do; the first line is complete by
itself. The figures it shows are attributes of the exception too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MatryoError(Exception):
    """Base of all errors; `hint` is the line that says what to do."""

    def __init__(self, message: str, *, hint: str | None = None, **figures: object) -> None:
        super().__init__(message if hint is None else f"{message}\n  {hint}")
        self.hint = hint
        for name, value in figures.items():
            setattr(self, name, value)


class InputError(MatryoError, ValueError):
    """The caller gave something that cannot be used."""


class DimError(InputError):
    """A dim, or a list of dims, that does not fit."""


class VectorError(InputError):
    """Vectors that cannot be scored; `ids` names the rows."""


class SpaceMismatchError(InputError):
    """Vectors of two embedding spaces meet; `fields` names what differs."""


class TooFewError(InputError):
    """Not enough data to say anything; `needed` is the number that would do."""


class NotFittedError(MatryoError, ValueError):
    """`transform` was called before `fit`."""


class FormatError(MatryoError, ValueError):
    """A file that is not of the expected format, too new, or damaged; `path` names it."""


class UnknownNameError(MatryoError, LookupError):
    """No encoder, store, measure or preset has this name."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Build the error with the nearest known name and the whole list."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        return cls(
            f"no {kind} is called {name!r}{guess}",
            hint=f"known: {', '.join(names)}",
            name=name,
            known=names,
        )


class MissingExtraError(MatryoError, ImportError):
    """The name is known, but the package behind it is not installed; `extra` installs it."""

    @classmethod
    def of(cls, what: str, package: str, extra: str) -> MissingExtraError:
        """Build the error with the line that installs the extra."""
        return cls(
            f"{what} needs the package {package}",
            hint=f"install it with: pip install 'matryo[{extra}]'",
            package=package,
            extra=extra,
        )


class UnsupportedError(MatryoError, NotImplementedError):
    """This part cannot do what was asked, by its own statement."""


class EndpointError(MatryoError, RuntimeError):
    """A server refused, timed out, or answered something that cannot be right."""
