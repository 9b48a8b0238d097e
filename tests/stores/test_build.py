"""How rows reach a segment: coded by threads, written in pieces, and never all in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.stores.made import SPACE, columns, make, rows_of, steps_for

from matryo.core import Funnel, Plan, Precision
from matryo.stores import Index
from matryo.stores.embedded.layout import Layout
from matryo.stores.embedded.packed import packed_arrays
from matryo.stores.embedded.segments import PAGE, NewArray, Segment, write_segment
from matryo.transforms import encode, truncate

N = 10_000  # rows: more than are coded at once
# in another process: build an index, and print by how many bytes anonymous memory grew meanwhile
GROWTH = """
import sys, threading, time
from pathlib import Path
import matryo.stores, sklearn.cluster
from matryo.jobs.indexing import build_index

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

sizes = [anonymous()]
ended = threading.Event()

def watch():
    while not ended.wait(0.005):
        sizes.append(anonymous())

watching = threading.Thread(target=watch)
watching.start()
build_index(sys.argv[1], sys.argv[2], "64@int4:400,128@int8:50,256:10")
ended.set()
watching.join()
print(max(sizes) - sizes[0])
"""


class TestCodes:
    @pytest.mark.parametrize("first", ["8@binary", "8@int4", "7@int2", "8@float16", "8@float32"])
    def test_they_are_those_of_all_rows_coded_at_once(self, first):
        vectors = rows_of(3, N)
        funnel = Funnel.parse(f"{first}:400,12@int8:50,16:10")
        plan = Plan(SPACE, funnel, scales=steps_for(funnel))
        layout = Layout(plan)

        arrays, _, clipped = layout.arrays(vectors)

        beyond = 0
        for level in layout.coded:
            prefix = truncate(vectors, level.dim)
            codes = encode(prefix, level.precision, scales=plan.scales.get(level.dim))
            expected = {f"codes {level}": NewArray(codes.dtype, codes.shape, [codes])}
            if level.precision.is_packed:
                expected = packed_arrays(codes, level, None)
            for name, array in expected.items():
                np.testing.assert_array_equal(*(next(iter(a.parts)) for a in (arrays[name], array)))
            if level.precision is Precision.INT8:
                steps = plan.scales[level.dim]
                beyond = int((np.rint(np.abs(prefix) / steps) > 127).sum())
        assert clipped == {"12@int8": beyond}
        assert beyond > 100

    def test_rows_in_the_order_of_their_ids_are_written_as_they_were_given(self):
        vectors = rows_of(4, 50)
        vectors.flags.writeable = False
        layout = Layout(Plan(SPACE, Funnel.parse("8@binary:400,16:10")))

        arrays, _, _ = layout.arrays(vectors)

        assert np.shares_memory(next(iter(arrays["rows"].parts)), vectors)

    @pytest.mark.parametrize("name", [int, "n{:05}".format])
    def test_the_order_in_which_rows_are_given_makes_no_difference(self, name, tmp_path):
        vectors, names = rows_of(5, 3000), [name(row) for row in range(3000)]
        values = columns([{"year": row} for row in range(3000)])
        mixed = np.random.default_rng(0).permutation(3000)
        with make(tmp_path / "a") as ordered, make(tmp_path / "b") as other:
            ordered.add(names, vectors, values)
            other.add(
                [names[row] for row in mixed],
                vectors[mixed],
                {field: [own[row] for row in mixed] for field, own in values.items()},
            )

        files = [next((tmp_path / index).glob("*.seg")).read_bytes() for index in "ab"]
        assert files[0] == files[1]
        with Index.open(tmp_path / "b") as again:
            assert again.get([names[7]]).fields["year"] == [7]


class TestWriting:
    def test_arrays_of_every_form_come_back_with_their_checksums(self, tmp_path):
        numbers = np.random.default_rng(0).normal(size=(5000, 300)).astype(np.float32)
        given = {
            "plain": numbers,
            "strided": numbers[::2, ::3],
            "fortran": np.asfortranarray(numbers),
            "empty": np.empty((0, 4), np.int64),
            "page": np.arange(PAGE, dtype=np.uint8),
        }
        arrays = {name: NewArray(a.dtype, a.shape, [a]) for name, a in given.items()}
        arrays["parts"] = NewArray(numbers.dtype, numbers.shape, np.array_split(numbers, 7))

        entry = write_segment(tmp_path / "s.seg", 1, 5000, arrays, {})

        segment = Segment(tmp_path, entry)
        segment.check_all()
        for name, array in {**given, "parts": numbers}.items():
            np.testing.assert_array_equal(segment[name][:], array)

    @pytest.mark.slow
    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
    def test_a_build_takes_memory_for_its_codes_alone(self, tmp_path):
        rows = np.random.default_rng(0).normal(size=(200_000, 256)).astype(np.float32)
        np.save(tmp_path / "rows.npy", rows)

        call = [sys.executable, "-c", GROWTH, tmp_path / "rows.npy", tmp_path / "i"]
        done = subprocess.run(call, check=True, capture_output=True, text=True)

        assert int(done.stdout) < rows.nbytes / 2
        with Index.open(tmp_path / "i") as index:
            np.testing.assert_array_equal(index.get([7, 199_999]).vectors, rows[[7, 199_999]])
