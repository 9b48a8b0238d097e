import subprocess
import sys
from pathlib import Path

from matryo.readers import FORMATS
from matryo.readers.records import RECORD_READERS
from matryo.readers.vectors import VECTOR_READERS, VECTOR_WRITERS


def test_the_table_lists_every_format_once():
    suffixes = [form.suffix for form in FORMATS]

    assert len(set(suffixes)) == len(suffixes)
    assert set(suffixes) == {"", *VECTOR_READERS, *VECTOR_WRITERS, *RECORD_READERS}
    assert all(form.about and (form.reads or form.writes) for form in FORMATS)


def test_parquet_and_json_lines_hold_vectors_and_texts():
    both = {form.suffix for form in FORMATS if form.reads == ("vectors", "texts")}

    assert both == {".parquet", ".jsonl"}


def test_importing_the_readers_imports_no_optional_library():
    code = (
        "import sys, matryo.readers;"
        "print([m for m in ('pyarrow', 'h5py', 'safetensors') if m in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )

    assert result.stdout.strip() == "[]"
