"""OpenAI, or any server that speaks its embeddings API, through the official client."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matryo.core import EndpointError, InputError, Side, Space, VectorError, check_vectors
from matryo.encoders.presets import find_preset, side_specs
from matryo.encoders.texts import check_texts

# What to do about a status, for those a user can do something about.
_REMEDIES = {
    401: "check the key: set OPENAI_API_KEY or pass api_key",
    403: "this key may not use this model: check its rights",
    404: "check base_url (it usually ends in /v1) and the name of the model",
    413: "the request is too big for this server: pass a smaller batch_items or batch_chars",
    422: "the server may take fewer texts at once: pass a smaller batch_items",
    429: "the server wants fewer requests: wait, or ask for a higher limit",
}


class OpenAIEncoder:
    """Embeddings over HTTP at the model's full width; `dimensions` is never sent.

    Refusals that may pass (429, 5xx, no connection, no answer in time) are tried again after the
    pause that the server names in `Retry-After`, or a growing one. Answers are put in order by
    their `index` and checked for count, width and numbers. Both forms of an embedding are read,
    base64 and lists of numbers, whatever was asked for.

    Args:
        model: Its name on the server.
        base_url: Where the server is, usually ending in `/v1`; by default `OPENAI_BASE_URL`, else
            OpenAI's own.
        api_key: By default `OPENAI_API_KEY`.
        full_dim: Width of its vectors; by default that of a known model, else that of the first
            answer.
        revision: Version of the weights, if the server says which; it becomes part of the space.
        prompts: `{"query": ..., "document": ...}`, put before the texts here; by default those
            known of a model of this name.
        dims: Dims the model was trained at; by default those known of a model of this name.
        encoding_format: What to ask for, `"base64"` (a quarter of the bytes) or `"float"`.
        batch_items: Most texts per request.
        batch_chars: Most characters per request, unless a single text has more.
        timeout_seconds: How long one try may take.
        max_retries: Tries after the first one.

    Raises:
        InputError: no key, or an option out of its bounds.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        full_dim: int | None = None,
        revision: str = "",
        prompts: Mapping[str, str] | None = None,
        dims: tuple[int, ...] | None = None,
        encoding_format: Literal["base64", "float"] = "base64",
        batch_items: int = 256,
        batch_chars: int = 100_000,
        timeout_seconds: float = 60.0,
        max_retries: int = 5,
    ) -> None:
        from openai import OpenAI

        api_key = api_key or os.environ.get("OPENAI_API_KEY")
        if not api_key:
            raise InputError(
                f"the encoder openai:{model} needs a key, got none",
                hint="set OPENAI_API_KEY or pass api_key (any text, if the server asks for none)",
            )
        if encoding_format not in ("base64", "float"):
            raise InputError(f"encoding_format must be base64 or float, got {encoding_format!r}")
        if batch_items < 1:
            raise InputError(f"batch_items must be at least 1, got {batch_items}")
        self._client = OpenAI(
            api_key=api_key, base_url=base_url, timeout=timeout_seconds, max_retries=max_retries
        )
        self._where = f"{str(self._client.base_url).rstrip('/')}/embeddings"
        self._model = model
        self._format = encoding_format
        self._batch_items = batch_items
        self._batch_chars = batch_chars
        self._timeout_seconds = timeout_seconds
        self._tries = max_retries + 1
        self._revision = revision
        preset = find_preset(model)
        self._query, self._document = side_specs(preset, prompts)
        self._prompts = {Side.QUERY: self._query.prompt, Side.DOCUMENT: self._document.prompt}
        self._dims = dims or (preset.dims if preset else None)
        self._full_dim = full_dim or (preset.full_dim if preset else None)

    @property
    def space(self) -> Space:
        """Asks the server for one embedding if the width is not known yet.

        Raises:
            EndpointError: as `encode`.
        """
        return Space(
            self._model,
            self._full_dim or self._ask(["width"]).shape[1],
            revision=self._revision,
            query=self._query,
            document=self._document,
        )

    @property
    def dims(self) -> tuple[int, ...] | None:
        """As given, else of a known model."""
        return self._dims

    def encode(self, texts: Sequence[str], *, side: Side) -> NDArray[np.float32]:
        """The server's vectors `(len(texts), full_dim)`, prompts applied, not scaled by us.

        Raises:
            InputError: an empty text.
            EndpointError: the server cannot be reached, refuses, is too slow, or answers what
                cannot be right; `status` is the HTTP status if there was one.
        """
        prompt = self._prompts[side]
        checked = [prompt + text for text in check_texts(texts)]
        parts = [self._ask(batch) for batch in self._batches(checked)]
        if not parts:
            return np.empty((0, self.space.full_dim), dtype=np.float32)
        return np.concatenate(parts)

    def _batches(self, texts: list[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        chars = 0
        for text in texts:
            if batch and (len(batch) == self._batch_items or chars + len(text) > self._batch_chars):
                yield batch
                batch, chars = [], 0
            batch.append(text)
            chars += len(text)
        if batch:
            yield batch

    def _ask(self, texts: list[str]) -> NDArray[np.float32]:
        rows = [self._numbers(item) for item in self._in_order(self._post(texts), len(texts))]
        expected = self._full_dim or len(rows[0])
        for position, row in enumerate(rows):
            if len(row) != expected:
                raise self._wrong_width(position, len(row), expected)
        vectors = np.stack(rows)
        try:
            check_vectors(vectors, what=f"the embeddings from {self._where}")
        except VectorError as error:
            raise EndpointError(
                str(error).partition("\n")[0],
                hint="the server or its model is at fault for these texts, by position in the "
                "request; try them alone",
            ) from error
        self._full_dim = expected
        return vectors

    def _post(self, texts: list[str]) -> Any:
        """The answer's JSON, or an error that says what the server did."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        try:
            answer = self._client.embeddings.with_raw_response.create(
                model=self._model, input=texts, encoding_format=self._format
            )
        except APITimeoutError as error:
            raise EndpointError(
                f"{self._where} gave no answer within {self._timeout_seconds:g} s {self._tried()}",
                hint="pass a longer timeout_seconds or a smaller batch_items",
                seconds=self._timeout_seconds,
            ) from error
        except APIStatusError as error:
            status = error.status_code
            again = f" {self._tried()}" if status in (408, 409, 429) or status >= 500 else ""
            raise EndpointError(
                f"{self._where} refused {len(texts)} texts with status {status}{again}: "
                f"{error.message}",
                hint=_REMEDIES.get(status, "see the server's log, or try again later"),
                status=status,
            ) from error
        except APIConnectionError as error:
            raise EndpointError(
                f"cannot reach {self._where} {self._tried()}: {error.__cause__ or error}",
                hint="check base_url and whether the server runs",
            ) from error
        try:
            return json.loads(answer.content)
        except ValueError as error:
            raise EndpointError(
                f"{self._where} must answer with JSON, got {answer.content[:80]!r}",
                hint="check base_url: it usually ends in /v1",
            ) from error

    def _tried(self) -> str:
        return "in one try" if self._tries == 1 else f"in up to {self._tries} tries"

    def _in_order(self, answer: Any, count: int) -> list[Any]:
        """The `embedding` of every item, by its `index`."""
        try:
            found = {item["index"]: item["embedding"] for item in answer["data"]}
            got = len(answer["data"])
        except (KeyError, TypeError) as error:
            raise EndpointError(
                f"{self._where} must answer with a list 'data' of items with 'index' and "
                f"'embedding', got {json.dumps(answer)[:80]}"
            ) from error
        missing = [index for index in range(count) if index not in found]
        if got != count or missing:
            raise EndpointError(
                f"{self._where} must answer {count} texts with as many embeddings, got {got}"
                + (f", none with index {missing[0]}" if missing else ""),
                hint="the server dropped or repeated texts; a smaller batch_items may help",
                missing=missing,
            )
        return [found[index] for index in range(count)]

    def _numbers(self, embedding: Any) -> NDArray[np.float32]:
        """Base64 holds little-endian float32; anything else must be a list of numbers."""
        try:
            if isinstance(embedding, str):
                return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
            row = np.array(embedding, dtype=np.float32)
        except (ValueError, TypeError, binascii.Error) as error:
            raise EndpointError(
                f"{self._where}: an embedding must be a list of numbers, or base64 of float32, got "
                f"{str(embedding)[:40]!r} ({error})"
            ) from error
        if row.ndim != 1:
            raise EndpointError(
                f"{self._where}: an embedding must be one list of numbers, got shape {row.shape}",
                hint="the model may answer with one vector per token: it needs pooling",
            )
        return row

    def _wrong_width(self, position: int, got: int, expected: int) -> EndpointError:
        if got * 4 == expected:
            cause = (
                f"{got}, a quarter of the expected width: the server packed base64 as floats or "
                "the client mis-decoded"
            )
            hint = "ask with encoding_format float"
        else:
            cause = str(got)
            hint = f"if this server is meant to answer so, pass full_dim={got}"
        return EndpointError(
            f"{self._where}: embeddings of {self._model} must have {expected} numbers, got {cause} "
            f"(position {position})",
            hint=hint,
            expected=expected,
            got=got,
        )
