"""What a job that goes on after an interruption leaves beside its result, and finds again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matryo.core import MANIFEST, FormatError, InputError

FORMAT = 1


def state_of(run: Mapping[str, Any], **done: int) -> str:
    """The text of a state: of what call it is, and how far that came."""
    return json.dumps({"format": FORMAT, **done, "run": dict(run)}, indent=1) + "\n"


def read_state(file: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """A state, if it is of the same call.

    Raises:
        FormatError: not a state.
        InputError: of another call; `differing` names what differs.
    """
    work = file.parent
    try:
        state = dict(json.loads(file.read_text("utf-8")))
        number, found = state["format"], dict(state["run"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{file}: expected the state of an unfinished run, got {error!r}",
            hint=f"remove {work} to start from the first row",
            path=file,
        ) from error
    differing = [key for key in run if found.get(key) != run[key]]
    if number != FORMAT or differing:
        raise InputError(
            f"{work} holds an unfinished run of another kind: it differs in "
            f"{', '.join(differing) or 'format'}",
            hint="repeat the call it was begun with, or remove it to start from the first row",
            differing=differing,
        )
    return state


def identity(path: Path) -> list[Any]:
    """What tells whether a file or folder is still the same one."""
    if path.is_dir():
        return [hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()]
    facts = path.stat()
    return [path.name, facts.st_size, facts.st_mtime_ns]
