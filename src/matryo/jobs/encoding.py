"""Turn texts into stored vectors, cut and coded as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matryo.core import (
    InputError,
    NestedVectors,
    Nesting,
    Precision,
    Side,
    UnknownNameError,
)
from matryo.encoders import EncodingCache, encode_texts, encoder
from matryo.jobs.measuring import require_trained
from matryo.readers import read_texts, write_vectors
from matryo.transforms import encode as encode_codes
from matryo.transforms import fit_scales, pre_step, truncate


def encode(
    data: str | Path,
    out: str | Path,
    *,
    side: Side | str = Side.DOCUMENT,
    model: str = "default",
    model_options: Mapping[str, Any] | None = None,
    dims: str | Iterable[int] | None = None,
    precision: str = "float32",
    column: str | None = None,
    id_column: str | None = None,
    allow_untrained: bool = False,
    overwrite: bool = False,
    cache: EncodingCache | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Encode a file of texts and write the vectors.

    Args:
        data: File of texts.
        out: Where to write: a folder in matryo's own format if the name ends in `.matryo`, else the
            format of the suffix.
        side: `document` or `query`.
        model: Name of an encoder.
        model_options: Options of the encoder.
        dims: Block borders of the folder, ascending; the last is the width that is stored. By
            default the dims the model was trained at.
        precision: `float32` or `float16`; or codes of fewer bits, of exactly one dim, in a
            folder.
        column: Column of the texts.
        id_column: Column of the ids.
        allow_untrained: Let a dim pass that the model was not trained at.
        overwrite: Replace an older file.
        cache: Where encodings are kept.
        progress: Called with a stage's name, the number done since the last call, and the total.

    Returns:
        What was written: rows, dims, precision, fingerprint, and the texts left out.

    Raises:
        DimError: a dim the model was not trained at.
        InputError: a precision that the format cannot hold.
    """
    wanted = Precision.parse(precision)
    if side not in tuple(Side):
        raise UnknownNameError.among("side", side, tuple(Side))
    which = Side(side)
    folder = Path(out).suffix == ".matryo"
    if wanted is not Precision.FLOAT32 and not folder:
        raise InputError(
            f"{wanted} vectors are stored in matryo's own folder, got {out}",
            hint="let the name end in .matryo",
        )
    model_used = encoder(model, **(model_options or {}))
    space = model_used.space
    nesting = Nesting.parse(
        (model_used.dims or (space.full_dim,)) if dims is None else dims, full_dim=space.full_dim
    )
    if not allow_untrained:
        require_trained(nesting, model_used.dims, space)
    texts = read_texts(data, column=column, id_column=id_column)
    report = progress or (lambda *_: None)
    vectors = encode_texts(
        model_used,
        texts.texts,
        side=which,
        ids=texts.ids,
        cache=cache,
        progress=lambda done: report(f"encoding {which} texts", done, len(texts.texts)),
    )
    spec = space.query if which is Side.QUERY else space.document
    vectors = pre_step(vectors, spec.pre_step).astype(np.float32, copy=False)
    dim = nesting.full_dim
    if dim < space.full_dim:
        vectors = truncate(vectors, dim, normalize=space.metric == "cosine")
    if wanted.bits <= 8:
        prefix = truncate(vectors, dim, normalize=space.metric == "cosine")
        scales = fit_scales(prefix) if wanted is Precision.INT8 else None
        stored = NestedVectors(
            texts.ids,
            [encode_codes(prefix, wanted, scales=scales)],
            nesting=nesting,
            space=space,
            side=which,
            precision=wanted,
            scales=scales,
        )
        write_vectors(out, stored, overwrite=overwrite)
    elif folder:
        nested = NestedVectors.from_array(
            vectors, texts.ids, space=space, side=which, nesting=nesting, precision=wanted
        )
        write_vectors(out, nested, overwrite=overwrite)
    else:
        write_vectors(out, vectors, texts.ids, overwrite=overwrite)
    return {
        "out": str(out),
        "rows": len(texts.ids),
        "dims": list(nesting),
        "precision": wanted.value,
        "side": which.value,
        "fingerprint": space.fingerprint,
        "left_out": list(texts.left_out),
    }
