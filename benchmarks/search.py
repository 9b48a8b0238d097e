"""The embedded index beside other engines: speed at equal recall, bandwidth, memory, building.

python benchmarks/search.py [--quick] [--part PART ...] [--texts FILE] [--synthetic ROWS ...]
    [--only real|synthetic] [--graphs] [--engines REGEX] [--rounds N] [--cache FOLDER]
    --json out.json

Parts: `search` (every engine tuned to each recall on half of the held-out queries, then timed in
turns on the other half, which also give the recall that is told), `bandwidth` (a first stage alone
beside the fastest plain read of as many bytes), `memory` (of an index opened from disk, in a fresh
process), `build` (an index of all rows, opening it, adding to it) and `exact` (the certified exact
stop on rotated real vectors).

Vectors: a file of texts, one a line, encoded by the default model (by default the definitions of
WordNet in ../shared/data), and synthetic ones of 768 numbers, by default 200,000 and a million.
Recall is that of the ten nearest rows by exact full-width search, ties counted. Engines that are
not installed are left out by name. Graphs over more than 200,000 rows take `--graphs`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import numpy as np
from _search_data import (
    Corpus,
    Effort,
    Floats,
    Row,
    encoded,
    glosses,
    lines_of,
    recall,
    synthetic,
)
from _search_engines import (
    THREADS,
    Engine,
    Setting,
    Skipped,
    build,
    limited,
    matryo_engines,
    peers,
    timed,
)
from _search_parts import bandwidth_rows, build_rows, exact_rows, last_cache, memory_rows
from platformdirs import user_cache_dir

PARTS = ("search", "bandwidth", "memory", "build", "exact")
WORDNET = Path(__file__).parents[1] / ".." / "shared" / "data" / "wordnet" / "glosses.tsv.gz"
NUMBERS = ("numpy", "faiss-cpu", "usearch", "hnswlib", "turbovec", "lancedb")


QUICK = Effort(queries=50, rounds=1, slice_seconds=0.005, batch_seconds=0.02, repeats=3, building=1)


@dataclass
class Winner:
    """The fastest setting of an engine for one recall, and what it took.

    Attributes:
        engine: Which.
        setting: Its setting.
        recall: On the reporting queries.
        singles: By threads, seconds of single queries.
        batches: By threads, queries per second.
        batch_queries: Queries of a batch.
    """

    engine: Engine
    setting: Setting
    recall: float
    singles: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in THREADS})
    batches: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in THREADS})
    batch_queries: int = 0

    def median(self, threads: int) -> float:
        """Seconds of a single query."""
        return float(np.median(self.singles[threads])) if self.singles[threads] else np.nan

    def rate(self, threads: int) -> float:
        """Queries per second in a batch."""
        return float(np.median(self.batches[threads])) if self.batches[threads] else np.nan


def fastest(engine: Engine, settings: Sequence[Setting], queries: Floats, tries: int) -> Setting:
    """The setting whose single queries take least, tried in turns; hopeless ones drop out."""
    seconds: dict[Setting, list[float]] = {setting: [] for setting in settings}
    with limited(engine.threads[0]):
        for turn in range(3):
            for setting in list(seconds):
                asked = queries[turn * tries : (turn + 1) * tries]
                engine.search(asked[:1], setting, engine.threads[0])
                for query in asked:
                    _, took = timed(lambda: engine.search(query[None], setting, engine.threads[0]))  # noqa: B023
                    seconds[setting].append(took)
            best = min(float(np.median(took)) for took in seconds.values())
            seconds = {s: took for s, took in seconds.items() if np.median(took) <= 1.5 * best}
    return min(seconds, key=lambda setting: float(np.median(seconds[setting])))


def race(winners: Sequence[Winner], queries: Floats, effort: Effort) -> None:
    """Time all of them in turns, so that what else happens on the machine meets all alike."""
    for number in range(effort.rounds):
        turn = number % len(winners)
        order = [*winners[turn:], *winners[:turn]]
        for threads in THREADS:
            for winner in order:
                if threads in winner.engine.threads:
                    with limited(threads):
                        _ask_singly(winner, queries, threads, number, effort)
                        if number % 4 == 0:
                            _ask_batch(winner, queries, threads, effort)


def _ask_singly(winner: Winner, queries: Floats, threads: int, number: int, effort: Effort) -> None:
    engine, setting = winner.engine, winner.setting
    for query in queries[:2]:  # what the engine before has pushed out of the caches comes back
        engine.search(query[None], setting, threads)
    until, place, fewest = time.perf_counter() + effort.slice_seconds, 97 * number, 3
    while time.perf_counter() < until or fewest > 0:
        query = queries[place % len(queries)][None]
        _, took = timed(lambda: engine.search(query, setting, threads))  # noqa: B023
        winner.singles[threads].append(took)
        place, fewest = place + 1, fewest - 1


def _ask_batch(winner: Winner, queries: Floats, threads: int, effort: Effort) -> None:
    fitting = int(effort.batch_seconds / winner.median(threads))
    size = min(len(queries), max(50, fitting))
    _, took = timed(lambda: winner.engine.search(queries[:size], winner.setting, threads))
    winner.batches[threads].append(size / took)
    winner.batch_queries = size


def search_rows(
    corpus: Corpus, cache: Path, effort: Effort, wanted: re.Pattern[str]
) -> Iterator[Row]:
    """All engines at each recall."""
    tuning, reporting = effort.tuning(), effort.reporting()
    asked, known = corpus.queries[tuning], corpus.neighbors[tuning]
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        place = Path(folder)
        made: list[tuple[Engine, dict[float, list[Setting]]]] = []
        engines = chain(
            peers(corpus, place, wanted, effort),
            matryo_engines(corpus, wanted, lambda funnel: build(corpus, place, funnel)),
        )
        with limited(effort.building):
            for engine in engines:
                if isinstance(engine, Skipped):
                    print(f"left out: {engine}", flush=True)
                    continue
                made.append((engine, engine.settings(asked, known, effort.targets)))
                print(f"built: {engine.maker} {engine.name}, {engine.build_seconds:.1f} s")
        for target in effort.targets:
            winners = []
            for engine, settings in made:
                if target not in settings:
                    print(f"left out at {target}: {engine.maker} {engine.name} does not reach it")
                    continue
                setting = fastest(engine, settings[target], asked, effort.tries)
                # what reads everything finds everything: a few queries show that it does
                some = slice(reporting.start, reporting.start + 50)
                shown = some if engine.kind == "exact" else reporting
                with limited(2):
                    answer = engine.search(corpus.queries[shown], setting, 2)
                found = recall(engine.rows(answer), corpus.neighbors[shown])
                winners.append(Winner(engine, setting, found))
            if winners:
                race(winners, corpus.queries[reporting], effort)
                yield from rows_of_race(winners, target, corpus)


def rows_of_race(winners: Sequence[Winner], target: float, corpus: Corpus) -> Iterator[Row]:
    """A row for each, with how much faster it is than FAISS at its best, and than exact search."""

    def best(number: Callable[[Winner], float], chosen: Callable[[Winner], bool]) -> float:
        numbers = [number(winner) for winner in winners if chosen(winner)]
        return float(np.nanmin(numbers)) if numbers and not np.isnan(numbers).all() else np.nan

    for winner in winners:
        engine = winner.engine
        row: Row = {
            "part": "search",
            "table": f"{corpus.name}: {len(corpus.rows):,} x {corpus.full_dim}, recall {target}",
            "origin": corpus.origin,
            "engine": f"{engine.maker} {engine.name}",
            "kind": engine.kind,
            "setting": engine.describe(winner.setting),
            "target": target,
            "recall": winner.recall,
            "reached": winner.recall >= target,
            "bytes_per_vector": engine.bytes_per_vector,
            "build_seconds": engine.build_seconds,
            "batch_queries": winner.batch_queries,
        }
        for threads in THREADS:
            singles = winner.singles[threads]

            def latency(one: Winner, threads: int = threads) -> float:
                return one.median(threads)

            def per_query(one: Winner, threads: int = threads) -> float:
                return 1 / one.rate(threads)

            def faiss(one: Winner) -> bool:
                return one.engine.maker == "faiss" and one.engine.kind != "exact"

            def alike(one: Winner, kind: str = engine.kind) -> bool:
                return faiss(one) and one.engine.kind == kind

            def exact(one: Winner) -> bool:
                return one.engine.kind == "exact"

            end = f"{threads}_threads" if threads > 1 else "1_thread"
            own, each = winner.median(threads), 1 / winner.rate(threads)
            row |= {
                f"single_p50_ms_{end}": 1000 * own,
                f"single_p95_ms_{end}": 1000 * np.percentile(singles, 95) if singles else np.nan,
                f"queries_per_second_{end}": winner.rate(threads),
                f"single_ratio_faiss_{end}": best(latency, faiss) / own,
                f"single_ratio_faiss_alike_{end}": best(latency, alike) / own,
                f"single_ratio_exact_{end}": best(latency, exact) / own,
                f"batch_ratio_faiss_{end}": best(per_query, faiss) / each,
                f"batch_ratio_faiss_alike_{end}": best(per_query, alike) / each,
                f"batch_ratio_exact_{end}": best(per_query, exact) / each,
            }
        yield row


def show(row: Row) -> str:
    """One line for people."""
    if row["part"] == "search":
        one, two = "1_thread", "2_threads"
        faiss = "faiss_alike" if row["kind"] in ("flat", "lists") else "faiss"
        return (
            f"  {row['engine']:42} {row['recall']:.4f}{' ' if row['reached'] else '<'} "
            f"{row['bytes_per_vector']:6.0f} B {row['build_seconds']:7.1f} s  "
            f"{row[f'single_p50_ms_{one}']:8.3f} {row[f'single_p50_ms_{two}']:8.3f} ms  "
            f"{row[f'queries_per_second_{one}']:7.0f} {row[f'queries_per_second_{two}']:7.0f} q/s  "
            f"{row[f'single_ratio_{faiss}_{one}']:5.2f} {row[f'single_ratio_{faiss}_{two}']:5.2f} "
            f"{row[f'batch_ratio_{faiss}_{one}']:5.2f} {row[f'batch_ratio_{faiss}_{two}']:5.2f} x  "
            f"{row[f'single_ratio_exact_{one}']:6.1f} x  {row['setting']}"
        )
    if row["part"] == "bandwidth":
        return (
            f"  {row['level']:12} {row['threads']} threads  {row['footprint_megabytes']:8.1f} MB, "
            f"{row['footprint_caches']:5.1f} caches  {row['search_ms']:8.3f} ms, floor "
            f"{row['floor_ms']:8.3f}  {row['search_gigabytes_per_second']:6.1f} of "
            f"{row['read_gigabytes_per_second']:6.1f} GB/s: {row['share_of_bandwidth']:.0%}"
        )
    if row["part"] == "memory":
        return (
            f"  {row['engine']:46} hot {row['hot_megabytes']:8.1f} MB, open "
            f"{row['open_ms']:8.1f} ms, anonymous {row['anonymous_megabytes_searched']:8.1f} "
            f"(process {row['anonymous_megabytes_process']:.0f}), touched: own "
            f"{row['touched_own_megabytes']:8.1f}, files {row['touched_file_megabytes']:8.1f}"
        )
    if row["part"] == "build":
        more = (
            f", {row['cpu_seconds']:.1f} s CPU, anonymous {row['peak_anonymous_megabytes']:.0f} MB"
            if "cpu_seconds" in row
            else f", p95 {row['p95_ms']:.1f}"
        )
        return f"  {row['what']:66} {row['value']:9.2f} {row['unit']}{more}"
    return (
        f"  {row['engine']:60} {row['threads']} threads  recall {row['recall']:.4f}  "
        f"{row['single_p50_ms']:8.3f} ms, p95 {row['single_p95_ms']:8.3f}  "
        f"{row['ratio_exact']:5.2f} x the fastest scan"
    )


HEADS = {
    "search": "  engine, recall (< below it), bytes of the first stage, build, single queries on 1 "
    "and 2 threads, batches,\n  how much faster than the best of FAISS, with lists if it "
    "has some (single 1, 2; batch 1, 2), and than exact search; setting",
}


def corpora(options: argparse.Namespace, most: int | None) -> Iterator[Corpus]:
    """The real vectors first, then the synthetic ones."""
    if options.only != "synthetic":
        if options.texts is not None:
            texts = lines_of(options.texts)
            yield encoded(options.name or options.texts.stem, texts, options.cache, most)
        elif WORDNET.is_file():
            yield encoded("WordNet definitions", glosses(WORDNET), options.cache, most)
        else:
            print(f"left out: real vectors: {WORDNET} is not there; give --texts")
    if options.only != "real":
        for rows in options.synthetic:
            yield synthetic(min(rows, most or rows), options.cache)


def machine() -> str:
    """Processor, cores and versions."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    versions = []
    for name in NUMBERS:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    cache = last_cache() / 2**20
    return (
        f"{model}, {os.cpu_count()} processors, {cache:.0f} MiB cache, Python "
        f"{platform.python_version()}, {', '.join(versions)}"
    )


def main() -> None:
    """Run the parts and write one JSON object."""
    default = Path(os.environ.get("MATRYO_CACHE") or user_cache_dir("matryo")) / "benchmarks"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="5,000 rows of each kind")
    parser.add_argument("--part", action="append", choices=PARTS, help="default all")
    parser.add_argument("--texts", type=Path, help="real texts, one a line")
    parser.add_argument("--name", help="what the texts are")
    parser.add_argument(
        "--synthetic", nargs="*", type=int, default=[200_000, 1_000_000], metavar="ROWS"
    )
    parser.add_argument("--only", choices=("real", "synthetic"), help="vectors of one kind")
    parser.add_argument("--graphs", action="store_true", help="graphs over many rows too")
    parser.add_argument("--engines", default="", help="only those that match")
    parser.add_argument("--rounds", type=int, help="turns of every engine, default 20")
    parser.add_argument("--cache", type=Path, default=default, help="folder for vectors")
    parser.add_argument("--json", required=True, type=Path, help="file to write")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    effort, most = (QUICK, 5000) if options.quick else (Effort(), None)
    if options.quick:
        options.synthetic = options.synthetic[:1]
    effort = replace(effort, graphs=options.graphs, rounds=options.rounds or effort.rounds)
    wanted = re.compile(options.engines)
    parts = {
        "search": search_rows,
        "bandwidth": bandwidth_rows,
        "memory": memory_rows,
        "build": build_rows,
        "exact": exact_rows,
    }
    results: list[Row] = []
    origins: dict[str, None] = {}
    heading = ""
    for corpus in corpora(options, most):
        origins[corpus.origin] = None
        for part in options.part or PARTS:
            if part == "exact" and corpus.origin.startswith("synthetic"):
                continue
            if options.quick and part != "search" and len(origins) > 1:
                continue
            for row in parts[part](corpus, options.cache, effort, wanted):
                results.append(row)
                if row["table"] != heading:
                    heading = row["table"]
                    print(f"{heading} ({row['origin']})")
                    if part in HEADS:
                        print(HEADS[part])
                print(show(row), flush=True)
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    document = {
        "benchmark": "search",
        "commit": commit or "unknown",
        "machine": machine(),
        "data": "; ".join(origins),
        "results": [
            {key: None if value != value else value for key, value in row.items()}
            for row in results
        ],
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
