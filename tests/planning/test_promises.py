"""Promises are broken no more often than they say, on queries whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.planning.conftest import DIM, vectors

from matryo.core import Funnel, Nesting, Precision, Promise, Stage
from matryo.evaluation import fit_sample, fit_steps
from matryo.planning import Calibration, funnel_candidates
from matryo.planning.candidates import levels_of
from matryo.planning.parts import measure_part
from matryo.planning.sequence import consider, has_knob, knob_of, path_of, try_path, turn_knob

K, RUNS = 10, 300
FULL = Funnel((Stage(DIM, K),))
FORMATS = list(Precision.parse_list("float32,int8,binary"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool(data):
    """Every candidate on 3,000 queries, which count as all queries there are."""
    everything = Calibration(vectors(3000, 21), data.corpus, data.space)
    nesting = Nesting.halving(DIM)
    scales = fit_steps(
        fit_sample(data.corpus, nesting, "cosine"), levels_of(nesting, FORMATS), "cosine"
    )
    funnels = funnel_candidates(nesting, FORMATS, k=K, n_rows=len(data.corpus))
    return measure_part(
        everything,
        np.arange(3000),
        funnels,
        promise=Promise("mean", "neighbor_recall@10", 0.9),
        full=FULL,
        scales=scales,
    )


def drawn(pool, rng, n, promise):
    """Some queries of the pool, with replacement."""
    picked = rng.integers(0, 3000, n)
    known = {funnel: values[picked] for funnel, values in pool.known.items()}
    return replace(pool, known=known, promise=promise)


def spread(pool, machine, promise):
    """Candidates that are dearer the more they truly keep, and what that is."""
    whole = replace(pool, promise=promise)
    seen = consider(list(pool.known), whole, machine, minimize="bytes", prices=None)
    seen.sort(key=lambda one: one.spend)
    better, best = [], 0.0
    for one in seen:
        if 0.8 < one.kept < 0.985 and one.kept > best + 0.005:
            best = one.kept
            better.append(one)
    return better


@pytest.mark.parametrize("kind", ["mean", "share"])
def test_the_least_favourable_floor_is_broken_no_more_often_than_promised(pool, machine, kind):
    first = Promise(kind, "neighbor_recall@10", 0.9, query_floor=0.9 if kind == "share" else None)
    some = spread(pool, machine, first)
    assert len(some) >= 3
    rng = np.random.default_rng(0)
    issued = broken = believed = 0

    for run in range(RUNS):
        false = some[run % len(some)]
        promise = replace(first, floor=false.kept + 1e-6)
        order, certify = drawn(pool, rng, 128, promise), drawn(pool, rng, 400, promise)
        seen = []
        for one in some:
            margin, error = order.margin(one.funnel)
            seen.append(replace(one, kept=order.kept(one.funnel), margin=margin, error=error))
        tried = try_path(path_of(seen, FULL), certify, order, promise, FULL)
        passed = {one.funnel for one in tried if one.status == "certified"}
        issued += bool(passed)
        broken += any(one.funnel in passed and one.kept < promise.floor for one in some)
        believed += certify.margin(false.funnel)[0] >= 0

    assert issued > RUNS / 4
    assert broken <= stats.binom.isf(0.001, RUNS, 0.05)
    assert believed > RUNS / 4  # the check would see a planner that took means at their word


def test_an_expected_promise_holds_on_average(pool, machine):
    promise = Promise("expected", "neighbor_recall@10", 0.95, None)
    rng = np.random.default_rng(1)
    some = [one for one in pool.known if one == FULL or has_knob(one)]
    truth = {one: float(pool.known[one].mean()) for one in some}
    order = drawn(pool, rng, 128, promise)
    path = knob_of(consider(some, order, machine, minimize="bytes", prices=None))
    lost = []

    for _ in range(RUNS):
        _, named = turn_knob(path, drawn(pool, rng, 150, promise), promise, FULL)
        lost.append(1 - truth[named[0][1].funnel])

    assert np.mean(lost) <= 0.05 + 3 * np.std(lost) / np.sqrt(RUNS)
    assert np.mean(lost) > 0.01
