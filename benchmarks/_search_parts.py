"""The parts of `search.py` that compare with what the machine can do, and not engines in a race."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _search_data import Corpus, Effort, Floats, K, Row, recall
from _search_engines import (
    FORMS,
    THREADS,
    FaissExact,
    Hnswlib,
    NumpyExact,
    Prefixes,
    Setting,
    Skipped,
    build,
    faiss_engines,
    filled_in,
    limited,
    timed,
    unsupported,
)

from matryo.core import Funnel
from matryo.jobs import build_index
from matryo.stores import Index
from matryo.transforms import Rotation

Ask = Callable[[Floats], object]
EXACT_FORMS = (
    "256@int4:10,256:10,exact",
    "64:50,128:50,256:10,exact",
)


def bandwidth_rows(
    corpus: Corpus, cache: Path, effort: Effort, wanted: re.Pattern[str]
) -> Iterator[Row]:
    """A first stage alone beside the fastest plain read of as many bytes."""
    wide = corpus.full_dim
    levels = ["64@int4", "128@int2", "256@binary", "256@int4", "256@int8", f"{wide}@int8"]
    able = []
    for level in dict.fromkeys(levels):
        if not wanted.search(f"matryo {level}"):
            continue
        reason = unsupported(f"{level}:S,{wide}:10", corpus)
        if reason:
            print(f"left out: matryo {level}: {reason}")
        else:
            able.append(level)
    if not able:
        return
    queries = corpus.queries[effort.reporting()]
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        stages = ",".join(f"{level}:100" for level in able)
        index = build(corpus, Path(folder), f"{stages},{wide}:10").index
        for level in able:
            funnel = Funnel.parse(f"{level}:{K}")
            size = index.explain(queries[:1], funnel=funnel)[0][0].bytes_read
            codes = np.ones(size // 64 * 8, np.uint64)
            for threads in THREADS:
                search = partial(index.search, queries[:1], funnel=funnel, threads=threads)
                calls: dict[str, Callable[[], object]] = {"search": search, **readers(codes, 1)}
                if threads > 1:
                    calls |= readers(codes, threads)
                seconds = in_turns(calls, effort.repeats)
                read = min(took for name, took in seconds.items() if name != "search")
                yield {
                    "part": "bandwidth",
                    "table": f"a first stage alone, {corpus.name}: {len(corpus.rows):,} x {wide}",
                    "origin": corpus.origin,
                    "level": level,
                    "threads": threads,
                    "footprint_megabytes": size / 1e6,
                    "footprint_caches": size / last_cache(),
                    "search_ms": 1000 * seconds["search"],
                    "search_gigabytes_per_second": size / seconds["search"] / 1e9,
                    "floor_ms": 1000 * read,
                    "read_gigabytes_per_second": size / read / 1e9,
                    "share_of_bandwidth": read / seconds["search"],
                }


def readers(codes: np.ndarray, threads: int) -> dict[str, Callable[[], object]]:
    """Ways to read every byte of an array and do next to nothing with it."""
    pool = ThreadPoolExecutor(threads)
    parts = np.array_split(codes, threads)
    bytes_of = [part.view(np.uint8) for part in parts]

    def run(call: Callable[[np.ndarray], object], over: list[np.ndarray]) -> object:
        return call(over[0]) if threads == 1 else list(pool.map(call, over))

    return {
        f"largest byte, {threads}": lambda: run(np.max, bytes_of),
        f"or of all words, {threads}": lambda: run(np.bitwise_or.reduce, parts),
        f"sum, {threads}": lambda: run(np.sum, parts),
    }


def in_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of calls; each has one more to warm up, and three in a row count as one."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()
            seconds[name] += [timed(call)[1] for _ in range(3)]
    return {name: float(np.median(took)) for name, took in seconds.items()}


def last_cache() -> int:
    """Bytes of the largest cache of the processor."""
    sizes = [
        int(path.read_text("ascii").strip().removesuffix("K")) * 1024
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=32 << 20)


def fresh(call: Callable[..., Any], *given: object) -> Any:
    """What a call gives in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *given).result()


def status() -> dict[str, int]:
    """Bytes of this process by the names of /proc/self/status."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    pairs = [line.split() for line in lines if line.endswith("kB")]
    return {name.rstrip(":"): int(number) * 1024 for name, number, _ in pairs}


def touched(ask: Callable[[], object], folder: str) -> tuple[int, int]:
    """Bytes of pages that a call reads: of memory of its own, and of files in a folder.

    The second call counts: by then the pages are mapped, and the processor marks those it reads.
    """
    ask()
    Path("/proc/self/clear_refs").write_text("1", "ascii")
    ask()
    own = mapped = 0
    anonymous, inside = False, False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            path = line.split(maxsplit=5)[5] if len(values) >= 5 else ""
            anonymous, inside = path in ("", "[heap]"), path.startswith(folder)
        elif name == "Referenced:":
            own += int(values[0]) * 1024 * anonymous
            mapped += int(values[0]) * 1024 * inside
    return own, mapped


def memory_of(maker: str, path: str, setting: str, queries: Floats) -> Row:
    """Memory of an index opened from disk; runs in a process of its own."""
    asking: Ask
    if maker == "faiss":
        import faiss

        faiss.omp_set_num_threads(1)
    elif maker == "hnswlib":
        import hnswlib
    before = status()
    started = time.perf_counter()
    if maker == "matryo":
        index = Index.open(path, read_only=True)
        funnel = Funnel.parse(setting)
        asking = lambda some: index.search(some, funnel=funnel, threads=1)  # noqa: E731
    elif maker == "faiss":
        loaded = faiss.read_index(path)
        loaded.k_factor = (int(setting) + 0.5) / K
        asking = lambda some: loaded.search(some, K)  # noqa: E731
    else:
        graph = hnswlib.Index(space="ip", dim=queries.shape[1])
        graph.load_index(path)
        graph.set_ef(int(setting))
        asking = lambda some: graph.knn_query(some, k=K, num_threads=1)  # noqa: E731
    took = time.perf_counter() - started
    opened = status()
    asking(queries[:1])
    own, mapped = touched(lambda: asking(queries), str(Path(path).resolve()))
    after = status()
    return {
        "open_ms": 1000 * took,
        "anonymous_megabytes_opened": (opened["RssAnon"] - before["RssAnon"]) / 1e6,
        "anonymous_megabytes_searched": (after["RssAnon"] - before["RssAnon"]) / 1e6,
        "anonymous_megabytes_process": after["RssAnon"] / 1e6,
        "mapped_megabytes_searched": (after["RssFile"] - opened["RssFile"]) / 1e6,
        "touched_own_megabytes": own / 1e6,
        "touched_file_megabytes": mapped / 1e6,
    }


def memory_rows(
    corpus: Corpus, cache: Path, effort: Effort, wanted: re.Pattern[str]
) -> Iterator[Row]:
    """Of matryo and of peers, opened from disk."""
    queries = corpus.queries[effort.reporting()]

    def row(engine: str, hot: float, figures: Row) -> Row:
        return {
            "part": "memory",
            "table": f"memory, {len(queries):,} queries, {corpus.name}: "
            f"{len(corpus.rows):,} x {corpus.full_dim}",
            "origin": corpus.origin,
            "engine": engine,
            "hot_megabytes": hot / 1e6,
            **figures,
        }

    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        for form in some_form(corpus, wanted):
            funnel = filled_in(form, 300)
            index = build(corpus, folder, funnel).index
            hot = index.explain(queries[:1])[0][0].bytes_read + len(corpus.rows) / 8
            index.close()
            yield row(
                f"matryo {funnel}", hot, fresh(memory_of, "matryo", index.path, funnel, queries)
            )
            shutil.rmtree(index.path)
        try:
            import faiss

            prefixes = Prefixes(corpus.rows, effort.sampled)
            for engine in faiss_engines(corpus, re.compile("PQFastScan 2-bit"), prefixes):
                path = folder / "faiss"
                faiss.write_index(engine.refined, str(path))
                hot = engine.bytes_per_vector * len(corpus.rows)
                yield row(
                    f"faiss {engine.name}",
                    hot,
                    fresh(memory_of, "faiss", str(path), "300", queries),
                )
                break
        except (ImportError, Skipped) as error:
            print(f"left out: faiss: {error}")
        if effort.builds_graphs(corpus):
            try:
                graph = Hnswlib(corpus)
            except ImportError as error:
                print(f"left out: hnswlib: {error}")
                return
            path = folder / "hnswlib"
            graph.save(path)
            hot = graph.bytes_per_vector * len(corpus.rows)
            del graph
            figures = fresh(memory_of, "hnswlib", str(path), "120", queries)
            yield row("hnswlib float32, M 16, breadth 120", hot, figures)


def some_form(corpus: Corpus, wanted: re.Pattern[str]) -> list[str]:
    """The first form of a funnel that is wanted and can be had, if there is one."""
    for form in FORMS.get(corpus.full_dim, ()):
        if wanted.search(f"matryo {form}") and not unsupported(form, corpus):
            return [form]
    print("left out: matryo: no form of a funnel is wanted and supported")
    return []


def building(path: str, out: str, funnel: str) -> Row:
    """Build an index; runs in a process of its own."""
    before, most, over = status()["RssAnon"], [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], status()["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.process_time()
    _, seconds = timed(lambda: build_index(path, out, funnel))
    spent = time.process_time() - started
    over.set()
    watcher.join()
    return {
        "value": seconds,
        "unit": "s",
        "cpu_seconds": spent,
        "peak_anonymous_megabytes": max(most[0] - before, 0) / 1e6,
    }


def opening(path: str) -> float:
    """Seconds to open an index; runs in a process of its own."""
    return timed(lambda: Index.open(path))[1]


def build_rows(
    corpus: Corpus, cache: Path, effort: Effort, wanted: re.Pattern[str]
) -> Iterator[Row]:
    """Building, opening and adding to an index of all rows, from the .npy file."""

    def row(what: str, figures: Row) -> Row:
        return {
            "part": "build",
            "table": f"building, {corpus.name}: {len(corpus.rows):,} x {corpus.full_dim}",
            "origin": corpus.origin,
            "what": what,
            **figures,
        }

    def median(seconds: Sequence[float]) -> Row:
        return {
            "value": 1000 * float(np.median(seconds)),
            "unit": "ms",
            "p95_ms": 1000 * float(np.percentile(seconds, 95)),
        }

    forms = some_form(corpus, wanted)
    if not forms:
        return
    funnel = filled_in(forms[0], 300)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        last = Path(name) / "index"
        yield row(f"build {funnel}", fresh(building, str(corpus.path), str(last), funnel))
        times = [fresh(opening, str(last)) for _ in range(min(5, effort.repeats))]
        yield row("open, in a fresh process", median(times))
        times = []
        for _ in range(effort.repeats):
            index, took = timed(lambda: Index.open(last))
            times.append(took)
            index.close()
        yield row("open again", median(times))
        adding, writing = [], []
        with Index.open(last) as index:
            size = index.info()["size_bytes"] // len(index) * 1000
            for number in range(effort.repeats):
                ids = list(range(10**9 + 1000 * number, 10**9 + 1000 * number + 1000))
                some = np.asarray(corpus.rows[1000 * number % 3000 :][:1000])
                adding.append(timed(lambda: index.add(ids, some))[1])  # noqa: B023
                writing.append(bare_write(last.parent, size))
        yield row("add 1,000 rows", median(adding))
        yield row(f"write {size:,} bytes to a new file, and wait for the disk", median(writing))


def bare_write(folder: Path, size: int) -> float:
    """Seconds to write so many bytes, wait for the disk, and once more for the folder."""
    data, path = os.urandom(size), folder / "bare"
    started = time.perf_counter()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)
    took = time.perf_counter() - started
    path.unlink()
    return took


def by_angles(form: str) -> bool:
    """Whether an exact stop goes by the angles between rows and their codes."""
    return Funnel.parse(form).stages[0].precision.is_packed


def exact_rows(
    corpus: Corpus, cache: Path, effort: Effort, wanted: re.Pattern[str]
) -> Iterator[Row]:
    """Exact answers with bounds beside a full scan.

    By the rests of prefixes on rotated vectors, by the angles of codes on vectors as they came: a
    rotation that puts the weight first helps the one and makes the other's codes coarser.
    """
    queries = corpus.queries[effort.reporting()][: 20 * effort.repeats]
    known = corpus.neighbors[effort.reporting()][: 20 * effort.repeats]
    rotation = Rotation().fit(corpus.rows)
    asked = rotation.transform(queries).astype(np.float32)
    exact: list[NumpyExact] = [NumpyExact(corpus)]
    prefixes = Prefixes(corpus.rows)
    try:
        exact += [
            engine
            for engine in faiss_engines(corpus, re.compile("^faiss Flat$"), prefixes)
            if isinstance(engine, FaissExact)
        ]
    except Skipped as reason:
        print(f"left out: {reason}")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        indexes = {}
        for number, form in enumerate(EXACT_FORMS):
            if not wanted.search(f"matryo {form}"):
                continue
            path = Path(folder) / str(number)
            build_index(corpus.path, path, form, transform=None if by_angles(form) else rotation)
            indexes[form] = Index.open(path)
            indexes[form].compact()
        for threads in THREADS:
            calls: dict[str, Callable[[int], Any]] = {
                f"{engine.maker} {engine.name}": lambda place, engine=engine: engine.rows(
                    engine.search(queries[place : place + 1], Setting(), threads)  # noqa: B023
                )
                for engine in exact
            }
            for form, index in indexes.items():
                call = partial(index.search, funnel=Funnel.parse(form), threads=threads)
                own = queries if by_angles(form) else asked
                calls[f"matryo {form}"] = lambda place, call=call, own=own: np.array(
                    call(own[place : place + 1]).ids
                )
            seconds: dict[str, list[float]] = {name: [] for name in calls}
            shares: dict[str, list[float]] = {name: [] for name in calls}
            with limited(threads):
                for place in range(len(queries)):
                    for name, call in calls.items():
                        found, took = timed(lambda: call(place))  # noqa: B023
                        seconds[name].append(took)
                        shares[name].append(recall(found, known[place : place + 1]))
            scans = [float(np.median(seconds[f"{one.maker} {one.name}"])) for one in exact]
            for name in calls:
                took = float(np.median(seconds[name]))
                yield {
                    "part": "exact",
                    "table": f"exact answers, {corpus.name}: {len(corpus.rows):,} x "
                    f"{corpus.full_dim}",
                    "origin": corpus.origin,
                    "engine": name,
                    "threads": threads,
                    "recall": float(np.mean(shares[name])),
                    "single_p50_ms": 1000 * took,
                    "single_p95_ms": 1000 * float(np.percentile(seconds[name], 95)),
                    "ratio_exact": min(scans) / took,
                }
