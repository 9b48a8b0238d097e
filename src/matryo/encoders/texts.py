"""The check of texts that every encoder makes at its border."""

from __future__ import annotations

from collections.abc import Sequence

from matryo.core import InputError


def check_texts(texts: Sequence[str], ids: Sequence[str | int] | None = None) -> list[str]:
    """Return the texts as a list if every one of them can be encoded.

    Args:
        texts: Any number of texts.
        ids: Their names for the message; without them the position is named.

    Raises:
        InputError: one string instead of several; or an item that is no string, holds nothing but
            white space, or cannot be written as UTF-8. `position` says which.
    """
    if isinstance(texts, str):
        raise InputError("expected several texts, got one string", hint="pass it as [text]")
    for position, text in enumerate(texts):
        fault = _fault(text)
        if fault:
            where = (
                f"position {position}" if ids is None else f"position {position}, {ids[position]!r}"
            )
            raise InputError(
                f"every text must be a string with something in it, got {fault} at {where}",
                hint="leave it out, or give it a text",
                position=position,
            )
    return list(texts)


def _fault(text: object) -> str:
    if not isinstance(text, str):
        return f"{type(text).__name__} {text!r}"
    if not text.strip():
        return f"the empty text {text!r}" if len(text) <= 20 else "white space only"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a character ({error.object[error.start]!r} cannot be written as UTF-8)"
    return ""
