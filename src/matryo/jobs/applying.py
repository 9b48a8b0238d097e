"""Send the vectors of a file through a fitted map, however many they are.

What is done is kept beside the output in `<out>.unfinished`: the mapped rows, block by block, and
`state.json`, written after them. A run that is interrupted goes on there and, since rows are always
multiplied in the same parts, ends with the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from matryo.adaptation import NestedMap
from matryo.core import (
    FormatError,
    InputError,
    MatryoError,
    NestedVectors,
    Nesting,
    Side,
    UnknownNameError,
    check_vectors,
    prefix_norms,
    replacing_folder,
    write_atomically,
)
from matryo.jobs.unfinished import identity, read_state, state_of
from matryo.readers import VectorStream, read_vectors, stream_vectors, write_vectors
from matryo.transforms import truncate

_PART = 8_192  # rows multiplied at a time, 25 MB at 768 numbers
_COMMIT = 8 * _PART
_WRITTEN = (".matryo", ".npy", ".parquet", ".jsonl", ".fvecs", ".fbin")  # without loading all rows
_IDS_BESIDE = (".npy", ".fvecs", ".fbin")


def apply(
    nested_map: NestedMap | str | Path,
    vectors: str | Path,
    out: str | Path,
    *,
    side: Side | str | None = None,
    dim: int | None = None,
    column: str | None = None,
    id_column: str | None = None,
    array: str | None = None,
    resume: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Map whole vectors of one side and write what comes out, with their ids.

    Args:
        nested_map: The map, or its folder.
        vectors: File or folder of whole vectors, after their pre-step.
        out: Where to write: a folder that keeps the space if the name ends in `.matryo`, else
            .npy, .parquet, .jsonl, .fvecs or .fbin.
        side: `query` or `document`; by default what the vectors say, else `document`.
        dim: Size to cut to; cuts are scaled to length 1 where the space is scored by cosine. By
            default all numbers are kept, and not scaled.
        column: Column of the vectors.
        id_column: Column of the ids.
        array: Name of the array in a file that holds several.
        resume: Go on where an interrupted run stopped; what is written already is left as it is.
        progress: Called with a stage's name, the number done since the last call, and the total.

    Returns:
        What was written: rows, dim, side, fingerprint of the space, and the row it went on from.

    Raises:
        SpaceMismatchError: the vectors come from another space.
        DimError: they have another width; or a size that the map was not fitted for.
        VectorError: NaN, infinity, or a row of zeros, on the way in or out; `ids` names the rows.
        InputError: `out` or an unfinished run exists, or that run was another.
    """
    nested = nested_map if isinstance(nested_map, NestedMap) else NestedMap.load(nested_map)
    target = Path(out)
    _require_new(target, resume=resume)
    if dim is not None:
        dim = nested.check_dims((dim,)).full_dim
    stream = stream_vectors(vectors, name=array, id_column=id_column, vector_column=column)
    which = _side(side, stream, vectors)
    # another space or width is refused before anything is written
    nested.apply(np.empty((0, stream.shape[1]), np.float32), which, stream.space)
    width = nested.makes.full_dim if dim is None else dim
    borders = (*(d for d in nested.dims if d < width), width)
    nesting = Nesting(borders if target.suffix.lower() == ".matryo" else (width,))
    rows = stream.shape[0]
    work = target.with_name(f"{target.name}.unfinished")
    belongs = {
        "vectors": identity(Path(vectors)),
        "column": column,
        "id_column": id_column,
        "array": array,
        "map": [nested.makes.fingerprint, nested.of(which).digest],
        "side": which.value,
        "dim": dim,
        "dims": list(nesting),
        "rows": rows,
    }
    written = {
        "out": str(out),
        "rows": rows,
        "dim": width,
        "side": which.value,
        "fingerprint": nested.makes.fingerprint,
        "resumed_at": 0,
    }
    if resume and target.exists() and not work.exists():
        _require_written(target, nested, (rows, width))
        return {**written, "resumed_at": rows}
    start = _begin(work, belongs) if not work.exists() else _read_state(work, belongs)
    if start < rows and target.exists():
        raise InputError(f"{target} exists already, and the run in {work} has not ended")
    report = progress or (lambda *_: None)
    stage = f"mapping {which} vectors"
    report(stage, start, rows)
    try:
        _map_rows(
            nested, stream, work, nesting, belongs,
            side=which, dim=dim, start=start, progress=lambda done: report(stage, done, rows),
        )  # fmt: skip
    except MatryoError:  # the vectors have to change, and then nothing could go on from here
        shutil.rmtree(work)
        raise
    blocks: list[Any] = [
        np.memmap(file, "<f4", mode="r", shape=(rows, b - a))
        for file, (a, b) in zip(_block_files(work, nesting), nesting.blocks, strict=True)
    ]
    if target.suffix.lower() == ".matryo":
        stored = NestedVectors(stream.ids, blocks, nesting=nesting, space=nested.makes, side=which)
        stored.norms = prefix_norms(stored, nesting)  # type: ignore[arg-type]  # read in parts
        write_vectors(target, stored, overwrite=resume)
    else:
        ids = stream.ids if stream.has_ids else None
        write_vectors(target, blocks[0], ids, overwrite=resume)
    shutil.rmtree(work)
    return {**written, "resumed_at": start}


def _map_rows(
    nested: NestedMap,
    stream: VectorStream,
    work: Path,
    nesting: Nesting,
    belongs: Mapping[str, Any],
    *,
    side: Side,
    dim: int | None,
    start: int,
    progress: Callable[[int], None],
) -> None:
    """Append mapped rows to the block files, and say in the state how many are safely there."""
    scaled = nested.makes.metric == "cosine"
    files = _block_files(work, nesting)
    done = start
    with ExitStack() as opened:
        outs = [opened.enter_context(file.open("r+b")) for file in files]
        for out, (a, b) in zip(outs, nesting.blocks, strict=True):
            # rows beyond the state, half of a part perhaps, are written again
            out.truncate(start * (b - a) * 4)
            out.seek(0, 2)
        for part in stream.parts(start, _PART):
            ids = stream.ids[done : done + len(part)]
            check_vectors(part, what=f"{side} vectors", ids=ids, first_row=done)
            mapped = nested.apply(part, side, stream.space)
            check_vectors(mapped, what="vectors after the map", ids=ids, first_row=done)
            if dim is not None:
                check_vectors(
                    mapped[:, :dim], what=f"vectors after the map, cut to {dim} numbers",
                    ids=ids, first_row=done,
                )  # fmt: skip
                mapped = truncate(mapped, dim, normalize=scaled)
            for out, (a, b) in zip(outs, nesting.blocks, strict=True):
                out.write(np.ascontiguousarray(mapped[:, a:b], "<f4").tobytes())
            done += len(part)
            progress(len(part))
            if done % _COMMIT == 0 or done == stream.shape[0]:
                for out in outs:
                    out.flush()
                    os.fsync(out.fileno())
                _write_state(work, belongs, done)


def _require_new(target: Path, *, resume: bool) -> None:
    """Refuse, before anything is read, what would end in an error later."""
    if target.suffix.lower() not in _WRITTEN:
        raise InputError(
            f"{target}: expected a name that ends in one of {', '.join(_WRITTEN)}, "
            f"got {target.suffix or 'none of them'}",
            path=target,
        )
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    work = target.with_name(f"{target.name}.unfinished")
    if resume and (work.exists() or target.exists()):
        return
    beside = target.with_name(f"{target.stem}.ids.json")
    for file in (target, *([beside] if target.suffix.lower() in _IDS_BESIDE else [])):
        if file.exists():
            raise InputError(f"{file} exists already", hint="choose another name, or remove it")
    if work.exists():
        raise InputError(
            f"{work} holds an unfinished run",
            hint="go on with it (resume, --resume), or remove it",
            path=work,
        )


def _require_written(target: Path, nested: NestedMap, shape: tuple[int, int]) -> None:
    """Refuse to take another file for the result."""
    found = read_vectors(target)
    if tuple(found.array.shape) != shape or found.space not in (None, nested.makes):
        raise InputError(
            f"{target} exists already, and is not what this run would write: expected {shape} "
            f"numbers, got {tuple(found.array.shape)}"
            + (f" of {found.space.describe()}" if found.space else ""),
            hint="choose another name, or remove it",
        )


def _side(side: Side | str | None, stream: VectorStream, vectors: str | Path) -> Side:
    if side is not None and side not in tuple(Side):
        raise UnknownNameError.among("side", side, tuple(Side))
    if side is not None and stream.side not in (None, Side(side)):
        raise InputError(
            f"{vectors} holds {stream.side} vectors, got the side {side}",
            hint="leave the side out",
        )
    return Side(side or stream.side or Side.DOCUMENT)


def _block_files(work: Path, nesting: Nesting) -> list[Path]:
    return [work / f"block-{a:05d}-{b:05d}.f32" for a, b in nesting.blocks]


def _begin(work: Path, belongs: Mapping[str, Any]) -> int:
    with replacing_folder(work, overwrite=False) as temporary:
        for file in _block_files(temporary, Nesting(tuple(belongs["dims"]))):
            file.touch()
        _write_state(temporary, belongs, 0)
    return 0


def _write_state(work: Path, belongs: Mapping[str, Any], done: int) -> None:
    write_atomically(work / "state.json", state_of(belongs, done=done))


def _read_state(work: Path, belongs: Mapping[str, Any]) -> int:
    """Rows that are done, if it is a run of the same map over the same vectors."""
    file = work / "state.json"
    done = read_state(file, belongs).get("done")
    if not isinstance(done, int) or done < 0:
        raise FormatError(
            f"{file}: expected how many rows are done, got {done!r}",
            hint=f"remove {work} to start from the first row",
            path=file,
        )
    nesting = Nesting(tuple(belongs["dims"]))
    short = [
        block
        for block, (a, b) in zip(_block_files(work, nesting), nesting.blocks, strict=True)
        if not block.is_file() or block.stat().st_size < done * (b - a) * 4
    ]
    if short:
        raise FormatError(
            f"{short[0]}: expected {done} rows, as {file.name} says, got fewer",
            hint=f"remove {work} to start from the first row",
            path=short[0],
        )
    return done
