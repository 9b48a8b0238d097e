"""Names of plug-ins, held as strings so that nothing is imported until it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from matryo.core.errors import MissingExtraError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Entry:
    """One plug-in.

    Attributes:
        target: `"module:attribute"` of its factory.
        about: One sentence for lists.
        requires: Modules that must be importable, as `{"module": "package"}`.
        extra: The extra of matryo that installs them; empty if none is needed.
    """

    target: str
    about: str
    requires: Mapping[str, str]
    extra: str = ""


class Registry:
    """Built-in plug-ins of one kind, and those that other packages announce by entry point."""

    def __init__(self, kind: str, group: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self._group = group
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._outside()}))

    def about(self, name: str) -> Entry | None:
        """The built-in entry, or None if the name comes from another package."""
        return self._entries.get(name)

    def is_installed(self, name: str) -> bool:
        """Whether everything that the plug-in needs can be found, without importing it."""
        entry = self._entries.get(name)
        return entry is None or self._missing(entry) is None

    def load(self, name: str) -> Callable[..., Any]:
        """Import the factory behind a name.

        Raises:
            UnknownNameError: no such name.
            MissingExtraError: the name is known, its package is not installed.
        """
        entry = self._entries.get(name)
        if entry is None:
            outside = self._outside()
            if name not in outside:
                raise UnknownNameError.among(self.kind, name, self)
            factory: Callable[..., Any] = outside[name].load()
            return factory
        missing = self._missing(entry)
        if missing is not None:
            raise MissingExtraError.of(f"the {self.kind} {name!r}", missing, entry.extra)
        module, _, attribute = entry.target.partition(":")
        built_in: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return built_in

    def _outside(self) -> dict[str, Any]:
        return {point.name: point for point in entry_points(group=self._group)}

    @staticmethod
    def _missing(entry: Entry) -> str | None:
        for module, package in entry.requires.items():
            try:
                found = importlib.util.find_spec(module) is not None
            except ModuleNotFoundError:  # the parent of a dotted name is missing
                found = False
            if not found:
                return package
        return None
