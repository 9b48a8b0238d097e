"""This machine, measured once: a short calibration of the in-memory search, kept on disk."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from matryo.core import (
    Exact,
    FormatError,
    Funnel,
    InputError,
    Precision,
)
from matryo.planning.machine import Machine, Timing
from matryo.search import FunnelSearch
from matryo.transforms import fit_scales, truncate

_SHORT, _MIDDLE, _LONG = 32, 128, 768  # dims that are timed
_ROUNDS, _QUERIES, _ENOUGH_MS = 6, 4, 2.0  # of one funnel: rounds, and queries in each
_PAGE, _COLD_MIB, _COLD_READS = 4096, 32, 128


def this_machine(*, refresh: bool = False) -> Machine:
    """What this machine takes with the engine in memory, measured when first asked.

    Measuring takes about five seconds and 0.4 GB of memory.

    The figures are kept in the folder `MATRYO_CACHE` of the environment, else in the user's cache
    folder, for this version of matryo and numpy and for this processor. A file that is damaged, or
    does not know all precisions, is measured again.

    Args:
        refresh: Measure again, as after a machine was busy with other things the first time.

    Raises:
        InputError: the file cannot be written.
    """
    path = _cached_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not refresh:
            try:
                known = Machine.load(path)
            except FormatError:
                pass  # nothing is lost: what it said is measured below
            else:
                if set(known.rates) == set(Precision):
                    return known
        machine = measure_machine(path.parent)
        machine.save(path)
    except OSError as error:
        raise InputError(
            f"what this machine takes cannot be kept in {path}: {error}",
            hint="choose another folder with MATRYO_CACHE, or give a machine",
        ) from error
    return machine


def measure_machine(folder: str | Path | None = None) -> Machine:
    """Time the engine in memory on synthetic vectors, and cold reads from a file.

    Numpy's products run on one thread meanwhile: what a query takes is then told apart from how
    many processors happen to be free.

    Args:
        folder: Where the file is put for a moment, on the disk that vectors would lie on; by
            default the system's folder for temporary files.
    """
    with threadpool_limits(1, user_api="blas"):
        timings = _timings()
    cold_read_us, cold_byte_ns = _cold_reads(folder)
    return Machine.fitted(
        timings,
        name=_processor(),
        engine="matryo in memory, numpy",
        version=_version(),
        measured=datetime.now(UTC).date().isoformat(),
        processors=_processors(),
        cold_read_us=cold_read_us,
        cold_byte_ns=cold_byte_ns,
    )


def _timings() -> list[Timing]:
    """Time all funnels in turn, several times over: a busy moment then touches a few of each."""
    # What this thread computes is timed: other programs that take the processor meanwhile do not
    # count. On Windows that clock is too coarse.
    clock = time.perf_counter if os.name == "nt" else time.thread_time
    calibration = [(Funnel.parse(text), dim, n_rows) for text, dim, n_rows in _calibration()]
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(max(dim * n for _, dim, n in calibration), dtype=np.float32)
    runs: list[tuple[FunnelSearch, NDArray[np.float32], list[float]]] = []
    for funnel, dim, n_rows in calibration:
        vectors = numbers[: n_rows * dim].reshape(n_rows, dim)
        if isinstance(funnel.stop, Exact):
            # numbers that fall, as after a rotation, let bounds rule out most rows
            vectors = vectors * np.float32(0.97) ** np.arange(dim, dtype=np.float32)
        scales = {dim: fit_scales(truncate(vectors[:256], dim))}
        runs.append((FunnelSearch(vectors, funnel, scales=scales), -vectors[: _QUERIES + 1], []))
    for _ in range(_ROUNDS):
        for search, queries, latencies in runs:
            search.search(queries[0])  # fills the caches again, for those that come
            before = len(latencies)
            for query in queries[1:]:
                start = clock()
                search.search(query)
                latencies.append((clock() - start) * 1e3)
                if sum(latencies[before:]) > _ENOUGH_MS:
                    break
    timings = []
    for (search, queries, latencies), (funnel, _, n_rows) in zip(runs, calibration, strict=True):
        works = [search.search(query).stages for query in queries[1:3]]
        rows = np.mean([[work.rows_read for work in stages] for stages in works], axis=0)
        timings.append(Timing(funnel, n_rows, np.array(latencies), rows.tolist()))
    return timings


def _calibration() -> Iterator[tuple[str, int, int]]:
    """Funnels, widths and numbers of rows that tell all units apart."""
    for precision in Precision:
        for dim, n_rows in (
            (_SHORT, 1000),
            (_LONG, 1000),
            (_MIDDLE, 8000),
            (_SHORT, 64_000),
            (_MIDDLE, 32_000),
            (_LONG, 8000),
        ):
            yield f"{dim}@{precision}:10", dim, n_rows
        for dim, keep in ((_SHORT, 2000), (_LONG, 100), (_LONG, 1000)):
            yield f"{_SHORT}:{keep},{dim}@{precision}:10", dim, 4000
    yield f"{_SHORT}:20,{_MIDDLE}:10,exact", _MIDDLE, 32_000
    yield f"{_SHORT}:1000", _SHORT, 8000
    yield f"{_LONG}:1000", _LONG, 8000
    # what is computed fastest waits for memory soonest, so it is timed where no cache holds it
    yield f"{_MIDDLE}:10", _MIDDLE, 120_000
    yield f"{_LONG}:10", _LONG, 20_000


def _cold_reads(folder: str | Path | None) -> tuple[float | None, float | None]:
    """Microseconds for a read at a random place of a file on disk, and nanoseconds per byte.

    None twice where the system cannot be told to forget a file, or does not.
    """
    if not hasattr(os, "posix_fadvise"):
        return None, None
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        handle = file.fileno()
        for _ in range(_COLD_MIB):
            file.write(rng.bytes(1 << 20))
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # else more is read than asked for
        sizes, took = (_PAGE, 16 * _PAGE), []
        for size in sizes:
            places = rng.permutation((_COLD_MIB << 20) // size)[:_COLD_READS] * size
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            took.append(_read_us(handle, places, size))
        again = _read_us(handle, places, size)
    if again > took[-1] / 2:  # it came from memory the first time too
        return None, None
    system = np.array([[1.0, size] for size in sizes]) / np.array(took)[:, None]
    (read_us, byte_us), _ = nnls(system, np.ones(len(sizes)))
    return float(read_us), float(byte_us) * 1e3


def _read_us(handle: int, places: NDArray[np.int64], size: int) -> float:
    """Mean microseconds of a read; of the means of eight parts the median.

    A query reads many rows, so the mean is what counts, but one read in a hundred waits for other
    programs.
    """
    took = []
    for place in places.tolist():
        start = time.perf_counter()
        os.pread(handle, size, place)
        took.append((time.perf_counter() - start) * 1e6)
    return float(np.median(np.mean(np.reshape(took, (8, -1)), axis=1)))


def _cached_path() -> Path:
    folder = os.environ.get("MATRYO_CACHE")
    if not folder:
        from platformdirs import user_cache_dir

        folder = user_cache_dir("matryo")
    about = f"{_version()}, {_processor()}, {_processors()} processors"
    return Path(folder) / f"machine-{hashlib.sha256(about.encode()).hexdigest()[:16]}.json"


def _version() -> str:
    return f"matryo {version('matryo')}, numpy {np.__version__}"


def _processor() -> str:
    """Name of the processor; Linux keeps it in a file of its own."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine() or "unknown"


def _processors() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
