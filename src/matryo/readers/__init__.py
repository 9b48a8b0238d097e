"""Files in and out: vectors, texts, and benchmark data.

Hides how each file format lays out its numbers, where it keeps ids, what can stay on disk until it
is read, and which damage it can suffer. Whatever comes out has unique ids, one per row; whatever
goes in replaces an older file only when it is whole.
"""

from matryo.readers.benchmarks import (
    LabelledData,
    LabelledVectors,
    PairsData,
    Qrels,
    RetrievalData,
    open_dataset,
    read_qrels,
)
from matryo.readers.formats import FORMATS, FileFormat
from matryo.readers.pairs import TrainingData, read_training_data
from matryo.readers.records import RECORD_READERS, read_records
from matryo.readers.rows import Rows
from matryo.readers.streams import VectorStream, stream_vectors
from matryo.readers.texts import Texts, read_texts, text_of
from matryo.readers.vectors import Vectors, read_vectors, write_vectors

__all__ = [
    "FORMATS",
    "RECORD_READERS",
    "FileFormat",
    "LabelledData",
    "LabelledVectors",
    "PairsData",
    "Qrels",
    "RetrievalData",
    "Rows",
    "Texts",
    "TrainingData",
    "VectorStream",
    "Vectors",
    "open_dataset",
    "read_qrels",
    "read_records",
    "read_texts",
    "read_training_data",
    "read_vectors",
    "stream_vectors",
    "text_of",
    "write_vectors",
]
