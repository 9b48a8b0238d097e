"""The table of file formats."""

from __future__ import annotations

from dataclasses import dataclass

from matryo.readers.records import RECORD_READERS
from matryo.readers.vectors import VECTOR_READERS, VECTOR_WRITERS


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One file format.

    Attributes:
        suffix: How its names end; empty for matryo's folder, which may also end in `.matryo`.
        about: What it is, in a few words.
        reads: What can be read from it: `vectors`, `texts`.
        writes: What can be written to it: `vectors`.
        extra: The extra of matryo that it needs; empty if none is needed.
    """

    suffix: str
    about: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    extra: str = ""


_ABOUT = {
    ".npy": ("one numpy array, memory-mapped; ids in <stem>.ids.json", ""),
    ".npz": ("named numpy arrays; ids in ids or ids_json", ""),
    ".safetensors": ("named tensors; ids in ids or ids_json", ""),
    ".parquet": ("Parquet: columns of lists of floats, or of text", "parquet"),
    ".arrow": ("Arrow IPC, file or stream: columns of lists of floats", "parquet"),
    ".feather": ("Feather version 2, which is Arrow IPC", "parquet"),
    ".jsonl": ("a JSON object a line: id with vector, or with title and text", ""),
    ".fvecs": ("rows of float32, each after its length; ids in <stem>.ids.json", ""),
    ".bvecs": ("rows of uint8, each after its length; ids in <stem>.ids.json", ""),
    ".fbin": ("two counts, then rows of float32; ids in <stem>.ids.json", ""),
    ".u8bin": ("two counts, then rows of uint8; ids in <stem>.ids.json", ""),
    ".hdf5": ("HDF5 as of ann-benchmarks: train, test", "hdf5"),
    ".h5": ("HDF5 as of ann-benchmarks: train, test", "hdf5"),
    ".csv": ("CSV with a header line", ""),
    ".tsv": ("tab-separated with a header line, never quoted", ""),
    ".txt": ("a text a line", ""),
}


def _of(suffix: str) -> FileFormat:
    about, extra = _ABOUT[suffix]
    has_texts = suffix in (*RECORD_READERS, ".parquet")
    reads = (("vectors",) if suffix in VECTOR_READERS else ()) + (("texts",) if has_texts else ())
    writes = ("vectors",) if suffix in VECTOR_WRITERS else ()
    return FileFormat(suffix, about, reads, writes, extra)


FORMATS: tuple[FileFormat, ...] = (
    FileFormat("", "matryo's folder: nested vectors, checksums, space", ("vectors",), ("vectors",)),
    *(_of(suffix) for suffix in _ABOUT),
)
