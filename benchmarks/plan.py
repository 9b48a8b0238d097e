"""Whether promises hold, what they cost, and what planning takes.

python benchmarks/plan.py [--quick] [--data FOLDER] [--part PART] [--set NAME] --json out.json

Parts: `promises` (1,000 runs of the planner's own sequence of tests on a population whose truth is
known), `tight` (what a certified plan costs beside the cheapest that truly keeps the floor),
`stops` (per-query stopping beside the best fixed funnel, both certified and then run), `exact` (the
certified exact mode on real vectors) and `time` (planning beside one exact pass, on synthetic
vectors). The real data sets lie in FOLDER, by default `../shared/data`; without it the demo's
WordNet entries are the only set.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import Exact, Funnel, Nesting, Precision, Promise, Side, Space, Stage
from matryo.encoders import EncodingCache, encode_texts, encoder
from matryo.evaluation import FunnelTable, Judged, fit_sample, fit_steps
from matryo.jobs import demo_data, open_source
from matryo.planning import Calibration, Candidate, choose, cost, funnel_candidates, this_machine
from matryo.planning.candidates import levels_of
from matryo.planning.choose import ORDERING
from matryo.planning.parts import Part
from matryo.planning.sequence import (
    consider,
    has_knob,
    knob_of,
    name_choices,
    path_of,
    try_path,
    turn_knob,
)
from matryo.readers import LabelledData, PairsData, RetrievalData
from matryo.search import FunnelSearch, Level, View, scan, shortlists
from matryo.transforms import Rotation

K = 10
CONFIDENCE = 0.95
LIMIT = 73  # of 1,000 runs at 5 %: the largest number that chance alone exceeds once in 1,000
MODELS = ("default", "minilm")
_MOST = 2500  # queries on which every candidate is measured
PARTS = ("time", "promises", "tight", "stops", "exact")
Row = dict[str, Any]


@dataclass(frozen=True)
class Set:
    """Texts of one data set, with or without judgments."""

    name: str
    documents: Sequence[str]
    queries: Sequence[str]
    judged: Judged | None = None


def data_sets(folder: Path | None, *, quick: bool) -> Iterator[Set]:
    """WordNet, and where there is a folder the classic sets in it."""
    if folder is None or quick:
        data = demo_data()
        n = 4000 if quick else len(data.documents.texts)
        asked = 400 if quick else len(data.queries.texts)
        yield Set("wordnet-demo", data.documents.texts[:n], data.queries.texts[:asked])
        return
    yield wordnet(folder / "wordnet" / "glosses.tsv.gz")
    for name in ("banking77", "stsb/test.tsv", "pubmedqa", "cranfield", "npl"):
        source = open_source(folder / name)
        if isinstance(source, LabelledData):
            yield Set("banking77", source.train.texts, source.test.texts)
        elif isinstance(source, PairsData):
            yield Set("stsb", [*dict.fromkeys(source.second)], [*dict.fromkeys(source.first)])
        elif isinstance(source, RetrievalData):
            ids = [str(i) for i in source.queries.ids], [str(i) for i in source.documents.ids]
            judged = Judged(*ids, source.qrels)
            yield Set(name, source.documents.texts, source.queries.texts, judged)


def wordnet(path: Path, n_documents: int = 30_000, n_queries: int = 20_000) -> Set:
    """Words with their definition, asked for by example sentences of theirs."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    rng = np.random.default_rng(0)
    examples = [(text, i) for i, row in enumerate(rows) for text in row["examples"].split("|")]
    examples = [(text, i) for text, i in examples if text.strip()]
    asked = [examples[i] for i in np.sort(rng.choice(len(examples), n_queries, replace=False))]
    wanted = np.unique([i for _, i in asked])
    others = np.setdiff1d(np.arange(len(rows)), wanted)
    more = rng.choice(others, max(0, n_documents - len(wanted)), replace=False)
    kept = np.sort(np.concatenate([wanted, more]))
    texts = [f"{rows[i]['lemmas'].replace('|', ', ')}: {rows[i]['definition']}" for i in kept]
    place = {int(i): str(n) for n, i in enumerate(kept)}
    names = [str(i) for i in range(len(asked))]
    qrels = {name: {place[i]: 1} for name, (_, i) in zip(names, asked, strict=True)}
    judged = Judged(names, [str(n) for n in range(len(kept))], qrels)
    return Set("wordnet", texts, [text for text, _ in asked], judged)


@dataclass(frozen=True)
class Population:
    """A pool of queries that counts as everything there is: its means are the truth."""

    name: str
    candidates: list[Candidate]
    values: NDArray[np.float64]
    whole: NDArray[np.float64]
    measure: str

    @property
    def index(self) -> dict[Funnel, int]:
        """Number of each candidate."""
        return {one.funnel: i for i, one in enumerate(self.candidates)}

    def truth(self, promise: Promise) -> NDArray[np.float64]:
        """What every candidate truly keeps of the promise's measure."""
        if promise.kind == "share":
            reached = self.values >= (promise.query_floor or 0) * self.whole - 1e-9
            return reached.mean(axis=1)
        kept = self.values.mean(axis=1)
        return kept / float(self.whole.mean())

    def part(self, picked: NDArray[np.int64], promise: Promise, some: Sequence[int]) -> Part:
        """Drawn queries as the planner sees a part of its data."""
        known = {self.candidates[i].funnel: self.values[i, picked] for i in some}
        full = self.candidates[0].funnel
        known[full] = self.whole[picked]
        return Part(None, promise, full, 0, None, known)  # type: ignore[arg-type]


def population(
    some: Set,
    model: str,
    cache: EncodingCache,
    *,
    measure: str,
    few: Sequence[Funnel] | None = None,
) -> Population:
    """Candidates of the planner on the pool: all of them on 2,500 queries, or a few on all."""
    documents, queries = vectors_of(some, model, cache)
    if few is None:
        queries = queries[np.random.default_rng(0).permutation(len(queries))[:_MOST]]
    if some.judged is None and not measure.startswith("neighbor_recall"):
        raise SystemExit(f"{some.name} has no judgments for {measure}")
    nesting = Nesting.halving(documents.shape[1])
    formats = Precision.parse_list("float32,int8,binary")
    levels = levels_of(nesting, formats)
    scales = fit_steps(fit_sample(documents, nesting, "cosine"), levels, "cosine")
    funnels = funnel_candidates(nesting, formats, k=K, n_rows=len(documents))
    if few is not None:
        funnels = list(dict.fromkeys([funnels[0], *few]))
        levels = list({Level(s.dim, s.precision) for funnel in funnels for s in funnel.stages})
    longest = max(stage.keep for funnel in funnels for stage in funnel.stages)
    promise, full = Promise("mean", measure, 0.9), funnels[0]
    blocks, wholes, candidates = [], [], []
    for at in range(0, len(queries), 500):
        block = queries[at : at + 500]
        view = View(levels, scales=scales)
        lists = shortlists(block, documents, view, cap=longest, settle=4 * K)
        judged = some.judged
        if judged is not None:
            judged = replace(judged, queries=judged.queries[at : at + 500])
        part = Part(FunnelTable(lists, K, judged), promise, full, len(documents), None, {})
        part.add(funnels)
        if not candidates:
            candidates = consider(funnels, part, this_machine(), minimize="bytes", prices=None)
        blocks.append(np.array([part.known[funnel] for funnel in funnels]))
        wholes.append(part.whole)
    values, whole = np.concatenate(blocks, axis=1), np.concatenate(wholes)
    return Population(f"{some.name}, {model}", candidates, values, whole, measure)


def vectors_of(
    some: Set, model: str, cache: EncodingCache
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Documents and queries of a set, encoded once."""
    maker = encoder(model)
    return (
        encode_texts(maker, some.documents, side=Side.DOCUMENT, cache=cache),
        encode_texts(maker, some.queries, side=Side.QUERY, cache=cache),
    )


def seen_on(part: Part, pool: Population, some: Sequence[int]) -> list[Candidate]:
    """Candidates with what the ordering queries say of them; their cost is known."""
    seen = []
    for i in some:
        one = pool.candidates[i]
        margin, error = part.margin(one.funnel)
        seen.append(replace(one, kept=part.kept(one.funnel), margin=margin, error=error))
    return seen


def least_favourable(pool: Population, kind: str) -> list[Funnel]:
    """Five candidates that are dearer the more they keep, spread from 0.85 to 0.99.

    For an expected promise: the funnels of one first stage, which has them all.
    """
    promise = promise_of(kind, pool.measure)
    truth = pool.truth(promise)
    if kind == "expected":
        full_dim = pool.candidates[0].funnel.stages[0].dim
        firsts = {one.funnel.stages[0].dim for one in pool.candidates} - {full_dim}
        first = Stage(max(firsts), K, Precision.BINARY)
        return [
            one.funnel
            for one in pool.candidates
            if has_knob(one.funnel)
            and (one.funnel.stages[0].dim, one.funnel.stages[0].precision)
            == (first.dim, first.precision)
        ]
    best, path = 0.0, []
    for i in np.argsort([one.spend for one in pool.candidates]):
        if 0.85 < truth[i] < 0.988 and truth[i] > best + 0.004 and i:
            best = truth[i]
            path.append(pool.candidates[i].funnel)
    places = np.linspace(0, len(path) - 1, 5).round().astype(int) if path else []
    return [path[i] for i in places]


def promise_of(kind: str, measure: str, floor: float = 0.9) -> Promise:
    """A promise of one of the three kinds."""
    return Promise(
        kind,  # type: ignore[arg-type]
        measure,
        floor,
        confidence=None if kind == "expected" else CONFIDENCE,
        query_floor=0.9 if kind == "share" else None,
    )


def broken_promises(
    pool: Population, kind: str, *, runs: int, n_order: int = ORDERING, n_certify: int = 500
) -> Row:
    """How often the planner's sequence of tests issues a promise that is not true.

    Each of five candidates in turn is the least favourable case: the floor lies just above what it
    truly keeps, and the dearer ones truly keep it.
    """
    first = promise_of(kind, pool.measure)
    truth = pool.truth(first)
    some = list(range(1, len(pool.candidates)))
    full = pool.candidates[0].funnel
    rng = np.random.default_rng(0)
    issued = broken = alone = untested = 0
    for run in range(runs):
        promise = replace(first, floor=float(truth[some[run % len(some)]]) + 1e-6)
        order = pool.part(rng.integers(0, len(pool.whole), n_order), promise, some)
        certify = pool.part(rng.integers(0, len(pool.whole), n_certify), promise, some)
        path = path_of(seen_on(order, pool, some), full)
        tried = try_path(path, certify, order, promise, full)
        passed = [one for one in tried if one.status == "certified"]
        keeps = {pool.candidates[i].funnel: truth[i] for i in some}
        issued += bool(passed)
        broken += any(keeps[one.funnel] < promise.floor for one in passed)
        # the false candidate by itself; and what would be issued without any test
        false = seen_on(order, pool, [some[run % len(some)]])
        alone += try_path(false, certify, order, promise, full)[0].status == "certified"
        untested += certify.margin(false[0].funnel)[0] >= 0
    return {
        "name": f"promises, {kind} of {pool.measure}, {pool.name}",
        "value": broken,
        "unit": f"broken of {runs} runs",
        "versus": f"{LIMIT * runs // 1000} at most, {n_certify} certifying queries of "
        f"{len(pool.whole):,}; issued {issued}, refused {runs - issued}; the false candidate alone "
        f"passes {alone} times, and {untested} times if its mean were taken at its word",
        "ratio": broken / (runs * (1 - CONFIDENCE)),
    }


def expected_losses(pool: Population, *, runs: int, n_certify: int = 200) -> Row:
    """The mean true loss of what conformal risk control picks, beside what it allows."""
    some = [i for i, one in enumerate(pool.candidates) if i == 0 or has_knob(one.funnel)]
    full = pool.candidates[0].funnel
    rng = np.random.default_rng(0)
    worst, losses, issued = 0.0, [], 0
    for floor in (0.9, 0.95, 0.98):
        promise = promise_of("expected", pool.measure, floor)
        truth = pool.truth(promise)
        by_funnel = {pool.candidates[i].funnel: truth[i] for i in some}
        order = pool.part(rng.integers(0, len(pool.whole), ORDERING), promise, some)
        path = knob_of(seen_on(order, pool, some))
        places = [i for i in some if pool.candidates[i].funnel in {one.funnel for one in path}]
        lost = []
        for _ in range(runs // 3):
            certify = pool.part(rng.integers(0, len(pool.whole), n_certify), promise, places)
            _, named = turn_knob(path, certify, promise, full)
            cheap = named[0][1].funnel
            issued += cheap != full
            lost.append(1 - by_funnel[cheap])
        losses.append(f"{np.mean(lost):.4f} of {1 - floor:.2f} allowed")
        worst = max(worst, float(np.mean(lost)) / (1 - floor))
    return {
        "name": f"promises, expected {pool.measure}, {pool.name}",
        "value": worst,
        "unit": "mean loss over what is allowed, the largest of three floors",
        "versus": f"1 at most, {n_certify} queries; losses {', '.join(losses)}; a shortlist "
        f"shorter than everything in {issued} of {3 * (runs // 3)} runs",
        "ratio": worst,
    }


def bernoulli(*, runs: int, n_certify: int = 1000) -> list[Row]:
    """Synthetic losses of 0 and 1, one percent off the floor on either side."""
    rows = []
    rng = np.random.default_rng(0)
    full, other = Funnel((Stage(8, K),)), Funnel((Stage(4, K),))
    for kind in ("mean", "share"):
        for off in (-0.01, 0.01):
            promise = Promise(
                kind,  # type: ignore[arg-type]
                "neighbor_recall@10",
                0.95,
                query_floor=1.0 if kind == "share" else None,
            )
            issued = 0
            for _ in range(runs):
                parts = []
                for n in (n_certify // 2, n_certify):
                    hit = (rng.random(n) < promise.floor + off).astype(np.float64)
                    known = {full: np.ones(n), other: hit}
                    parts.append(Part(None, promise, full, 0, None, known))  # type: ignore[arg-type]
                one = Candidate(other, cost(other, 100, this_machine()), 0.0, 0.0, 0.0, 0.0)
                issued += (
                    try_path([one], parts[1], parts[0], promise, full)[0].status == "certified"
                )
            truth = "false" if off < 0 else "true"
            rows.append(
                {
                    "name": f"promises, {kind}, synthetic losses, {truth} by one percent",
                    "value": issued,
                    "unit": f"issued of {runs}",
                    "versus": f"{LIMIT * runs // 1000} at most if false, all if true; floor 0.95, "
                    f"{n_certify} certifying queries",
                    "ratio": issued / runs,
                }
            )
    return rows


def tightness(pool: Population, *, runs: int, floor: float = 0.95) -> list[Row]:
    """What the certified plan costs beside the cheapest candidate that truly keeps the floor."""
    promise = Promise("mean", pool.measure, floor, CONFIDENCE)
    truth = pool.truth(promise)
    some = list(range(len(pool.candidates)))
    full = pool.candidates[0].funnel
    cheapest = min(one.spend for one, t in zip(pool.candidates, truth, strict=True) if t >= floor)
    rng = np.random.default_rng(0)
    rows = []
    for n in (100, 200, 500, 1000, 2000, 5000):
        ratios, alone = [], 0
        for _ in range(runs):
            order = pool.part(
                rng.integers(0, len(pool.whole), min(n // 2, ORDERING)), promise, some
            )
            path = path_of(seen_on(order, pool, some), full)
            places = [pool.index[one.funnel] for one in path]
            certify = pool.part(rng.integers(0, len(pool.whole), n), promise, places)
            tried = try_path(path, certify, order, promise, full)
            named = name_choices([o for o in tried if o.status == "certified"], promise)
            alone += named[0][1].funnel == full
            ratios.append(named[0][1].spend / cheapest)
        rows.append(
            {
                "name": f"tightness, {pool.name}, {n} certifying queries",
                "value": float(np.median(ratios)),
                "unit": "times the cheapest that truly keeps the floor (median)",
                "versus": f"1.25 from 1,000 on; 90th percentile {np.quantile(ratios, 0.9):.3f}; "
                f"floor {floor}; nothing but the full width in {alone} of {runs} runs",
                "ratio": float(np.median(ratios)),
            }
        )
    return rows


def stopping(some: Set, model: str, cache: EncodingCache, floor: float, formats: str) -> Row:
    """Per-query stopping beside the best fixed funnel, both certified, on bytes really read."""
    documents, queries = vectors_of(some, model, cache)
    pick = np.random.default_rng(0).permutation(len(queries))[:2300]
    held, asked = np.split(pick, [min(300, len(pick) // 4)])
    space = Space(model, documents.shape[1])
    read, taken = {}, False
    for stops in (False, True):
        found = choose(
            Calibration(queries[asked], documents, space),
            Promise("mean", f"neighbor_recall@{K}", floor, CONFIDENCE),
            nesting=Nesting.halving(space.full_dim),
            precisions=Precision.parse_list(formats),
            k=K,
            machine=this_machine(),
            stops=stops,
        )
        cheap = found.choices[0].plan
        assert isinstance(cheap.run, Funnel)
        taken = cheap.run.stop is not None
        engine = FunnelSearch(documents, cheap.run, scales=cheap.scales)
        read[stops] = float(np.mean([engine.search(query).bytes_read for query in queries[held]]))
    saved = 1 - read[True] / read[False]
    return {
        "name": f"per-query stopping, {some.name}, {model}, floor {floor}, {formats}",
        "value": saved,
        "unit": "share of bytes saved (measured)",
        "versus": f"0.25; the best fixed funnel reads {read[False]:,.0f} bytes a query; the "
        f"planner {'took a stop rule' if taken else 'said that it is not worth it'}",
        "ratio": read[True] / read[False],
    }


def exactness(some: Set, model: str, cache: EncodingCache) -> list[Row]:
    """The certified exact mode beside exact search, plain and after a rotation."""
    documents, queries = vectors_of(some, model, cache)
    queries = queries[:200]
    turned = Rotation().fit(documents[::2])
    rows = []
    for name, change in (("plain", None), ("rotated", turned)):
        left, right = (v if change is None else change.transform(v) for v in (queries, documents))
        full_dim = right.shape[1]
        dims = [d for d in (32, 64, 128, 256, 512) if d < full_dim]
        stages = [Stage(d, max(5 * K, K)) for d in dims]
        engine = FunnelSearch(right, Funnel((*stages, Stage(full_dim, K)), Exact()))
        level = Level(full_dim)
        truth = scan(left, right, {"": View([level])}, k=K)["", level]
        answers = [engine.search(query) for query in left]
        same = sum(np.array_equal(a.rows, t) for a, t in zip(answers, truth.rows, strict=True))
        read = float(np.mean([answer.dims_read for answer in answers]))
        rows.append(
            {
                "name": f"certified exact, {some.name}, {model}, {name}",
                "value": same,
                "unit": f"of {len(left)} queries equal exact search",
                "versus": f"{read:.1f} of {full_dim} numbers read per row (measured)",
                "ratio": read / full_dim,
            }
        )
    return rows


def planning_time(*, quick: bool) -> Row:
    """Planning beside one exact full-width pass of the fastest search at hand."""
    from measure import faiss_flat, interleaved, make_vectors, numpy_blocked, unit

    n, n_queries = (20_000, 300) if quick else (100_000, 1000)
    documents, queries = make_vectors(n, n_queries, 768)
    ready, asked = unit(documents), unit(queries)
    machine, tried = this_machine(), []

    def planning() -> None:
        found = choose(
            Calibration(queries, documents, Space("synthetic", 768), origin="synthetic"),
            Promise("mean", f"neighbor_recall@{K}", 0.95, CONFIDENCE),
            nesting=Nesting.halving(768),
            precisions=Precision.parse_list("float32,int8,binary"),
            k=K,
            machine=machine,
        )
        tried.append(len(found.candidates))

    calls: dict[str, Callable[[], object]] = {
        "numpy": lambda: numpy_blocked(asked, ready),
        "faiss": lambda: faiss_flat(asked, ready),
        "planning": planning,
    }
    seconds = interleaved(calls, 2 if quick else 5)
    fastest = min(("numpy", "faiss"), key=lambda name: seconds[name])
    return {
        "name": "planning",
        "value": seconds["planning"],
        "unit": "s",
        "versus": f"6 times one exact full-width top-10 pass by {fastest}: {seconds[fastest]:.3f} "
        f"s ({n} x 768 synthetic, {n_queries} queries, {tried[-1]:,} candidates)",
        "ratio": seconds["planning"] / seconds[fastest],
    }


def main() -> None:
    """Run the parts and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one small set, few runs")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="real data sets")
    parser.add_argument("--part", action="append", choices=PARTS, help="default all")
    parser.add_argument("--model", action="append", choices=MODELS, help="default both")
    parser.add_argument("--set", action="append", help="name of a data set, default all")
    parser.add_argument("--json", required=True, type=Path, help="file to write")
    options = parser.parse_args()
    parts = options.part or PARTS
    models = ("default",) if options.quick else options.model or MODELS
    runs = 60 if options.quick else 1000
    folder = options.data if options.data.is_dir() else None
    sets = [
        one
        for one in data_sets(folder, quick=options.quick)
        if not options.set or one.name in options.set
    ]
    results: list[Row] = []

    def add(*rows: Row) -> None:
        for row in rows:
            results.append(row)
            print(f"{row['name']}: {row['value']:.4g} {row['unit']}, ratio {row['ratio']:.3f}")
            print(f"    versus {row['versus']}", flush=True)

    if "time" in parts:
        add(planning_time(quick=options.quick))
    if "promises" in parts:
        add(*bernoulli(runs=runs))
    with EncodingCache() as cache:
        for model in models:
            for some in sets:
                if "promises" in parts or "tight" in parts:
                    pool = population(some, model, cache, measure=f"neighbor_recall@{K}")
                    if "tight" in parts:
                        add(*tightness(pool, runs=5 if options.quick else 30))
                if "promises" in parts:
                    for kind in ("mean", "share", "expected"):
                        few = least_favourable(pool, kind)
                        if not few:
                            print(f"{pool.name}: no candidate near a floor for {kind}")
                            continue
                        whole = population(some, model, cache, measure=pool.measure, few=few)
                        add(
                            expected_losses(whole, runs=runs)
                            if kind == "expected"
                            else broken_promises(whole, kind, runs=runs)
                        )
                if "promises" in parts and some.judged is not None:
                    pool = population(some, model, cache, measure=f"nDCG@{K}")
                    few = least_favourable(pool, "mean")
                    whole = population(some, model, cache, measure=pool.measure, few=few)
                    add(broken_promises(whole, "mean", runs=runs))
                if "stops" in parts and len(some.queries) >= 200:
                    for floor in (0.95,) if options.quick else (0.95, 0.97, 0.98, 0.99):
                        if len(some.queries) * 0.375 * (1 - floor) > 3:
                            for formats in ("float32,int8,binary", "float32,binary"):
                                add(stopping(some, model, cache, floor, formats))
                if "exact" in parts:
                    add(*exactness(some, model, cache))
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    )
    document = {
        "benchmark": "plan",
        "commit": commit or "unknown",
        "machine": f"{machine}, numpy {np.__version__}",
        "data": f"real: {', '.join(some.name for some in sets)}; synthetic where a row says so",
        "results": results,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
