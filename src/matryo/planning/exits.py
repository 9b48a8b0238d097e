"""Certify where a cascade may stop.

A row may stop at a size where the chance that the full width would answer otherwise is small. That
chance is estimated on the ordering part, at every size, from the signal that the policy looks at;
what counts as small is the one knob of the family of policies. They are tried from the one that
reads most to the one that reads least, on examples that had no part in making them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from matryo.cascade import Cascade, NestedClassifier, Signal, signal_of
from matryo.core import ExitPolicy, InputError, NotFittedError, Plan, Promise, Space, TooFewError
from matryo.evaluation import conformal_knob, mean_interval, share_interval
from matryo.planning.certify import (
    Split,
    Trial,
    needed_for,
    queries_needed,
    split_queries,
    try_promise,
)

MEASURES = ("accuracy", "agreement@full")
BUDGETS = np.geomspace(0.5, 1e-4, 40)  # chances of another answer at full width

_SURE = 1e-9  # signals are kept this far from 0 and 1, where their logit ends
_NEVER = 2.0  # a threshold that no signal reaches


@dataclass(frozen=True)
class CertifiedExits:
    """A finished policy with its promise, and what stands behind it.

    Attributes:
        policy: Where to stop.
        promise: What is promised.
        certified: False if nothing but the full width, which needs no proof, keeps the promise.
        evidence: Plain values: digests, split sizes, candidates tried, and, on the reporting part,
            expected dims, accuracy and agreement with their intervals.
    """

    policy: ExitPolicy
    promise: Promise
    certified: bool
    evidence: Mapping[str, Any]

    def explain(self) -> str:
        """Five lines of plain words: what, its promise, its cost, its neighbors, its evidence."""
        return "\n".join(self.evidence["explanation"])

    def to_plan(self, space: Space, *, transform: str | None = None) -> Plan:
        """The decision as a plan.

        Args:
            space: Space of the vectors that the classifier was fitted on.
            transform: Digest of the transform that was applied to them, or None.
        """
        return Plan(
            space=space,
            run=self.policy,
            transform=transform,
            promise=self.promise,
            evidence=self.evidence,
        )


def certify_exits(
    classifier: NestedClassifier | Cascade,
    vectors: NDArray[np.floating],
    labels: Sequence[Any] | NDArray[Any],
    promise: Promise,
    *,
    signal: Signal = "margin",
    seed: int = 0,
) -> CertifiedExits:
    """The exit policy that reads least of those that keep a promise.

    Args:
        classifier: Fitted heads, or a cascade around them, whose policy is not looked at.
        vectors: `(n, full_dim)` calibration vectors that the heads were not fitted on.
        labels: `(n,)` their labels.
        promise: About `"accuracy"` or `"agreement@full"`, the share of examples that get the answer
            of the full width. Of kind mean, or share (for accuracy: right wherever the full width
            is); or expected, for agreement only.
        signal: What is compared with the thresholds.
        seed: Seed of the split into ordering (a quarter), certifying (half) and reporting part.

    Raises:
        InputError: a promise that no policy can be tested for, or labels of one class.
        TooFewError: so few examples that no outcome could carry the promise.
    """
    table, split = _prepare(classifier, vectors, labels, promise, signal=signal, seed=seed)
    cascades = [table.outcome(policy) for policy in _cascades(table, split.order)]
    fixed = [table.outcome(policy) for policy in _fixed(table)]
    # a fixed size has a place only where no cascade reads as little and changes as few answers
    here = split.order
    single = [
        one
        for one in fixed
        if not any(
            c.mean_dims(here) <= one.mean_dims(here) and c.changed(here) <= one.changed(here)
            for c in cascades
        )
    ]
    return _certify(table, split, [*cascades, *single], promise, seed=seed)


def certify_dim(
    classifier: NestedClassifier | Cascade,
    vectors: NDArray[np.floating],
    labels: Sequence[Any] | NDArray[Any],
    promise: Promise,
    *,
    seed: int = 0,
) -> CertifiedExits:
    """The smallest fixed size that keeps a promise, by the same tests on the same parts.

    Arguments and errors are those of `certify_exits`.
    """
    table, split = _prepare(classifier, vectors, labels, promise, signal="margin", seed=seed)
    fixed = [table.outcome(policy) for policy in _fixed(table)]
    return _certify(table, split, fixed, promise, seed=seed)


@dataclass(frozen=True)
class _Outcome:
    """What a policy does to every example: the size that answers, and the measure."""

    policy: ExitPolicy
    dims: NDArray[np.int64]
    right: NDArray[np.float64]
    agrees: NDArray[np.float64]
    values: NDArray[np.float64]

    def mean_dims(self, rows: NDArray[np.integer]) -> float:
        return float(self.dims[rows].mean())

    def changed(self, rows: NDArray[np.integer]) -> float:
        return float(1 - self.agrees[rows].mean())


@dataclass(frozen=True)
class _Table:
    """The answers and signals of all sizes for every example.

    Attributes:
        dims: Sizes, the last one the full width.
        signals: `(sizes, n)`.
        agrees: `(sizes, n)` 1 where the answer is that of the full width.
        right: `(sizes, n)` 1 where the answer is the label.
        measure: What the promise is about.
        signal: Which signal it is.
        about: Digests of classifier and data.
    """

    dims: tuple[int, ...]
    signals: NDArray[np.float64]
    agrees: NDArray[np.float64]
    right: NDArray[np.float64]
    measure: str
    signal: Signal
    about: Mapping[str, str]

    def outcome(self, policy: ExitPolicy) -> _Outcome:
        """Stop every example where the policy does; the same rule as `Cascade.classify`."""
        sizes = np.array([self.dims.index(dim) for dim in policy.dims])
        reached = self.signals[sizes[:-1]] >= np.array(policy.thresholds)[:, None]
        always = np.ones((1, self.signals.shape[1]), np.bool_)
        size = sizes[np.concatenate([reached, always]).argmax(axis=0)]
        each = np.arange(len(size))
        right, agrees = self.right[size, each], self.agrees[size, each]
        values = right if self.measure == "accuracy" else agrees
        return _Outcome(policy, np.array(self.dims)[size], right, agrees, values)

    @property
    def whole(self) -> _Outcome:
        return self.outcome(ExitPolicy(self.dims[-1:], (), self.signal))


def _prepare(
    classifier: NestedClassifier | Cascade,
    vectors: NDArray[np.floating],
    labels: Sequence[Any] | NDArray[Any],
    promise: Promise,
    *,
    signal: Signal,
    seed: int,
) -> tuple[_Table, Split]:
    heads = classifier.nested if isinstance(classifier, Cascade) else classifier
    if not heads.is_fitted:
        raise NotFittedError("this classifier has learned nothing yet: call fit first")
    if len(heads.dims_) < 2:
        raise InputError(
            f"expected heads of at least two sizes to stop between, got {heads.dims_[0]} alone",
            hint="fit the classifier at more dims",
        )
    truth = np.asarray(labels)
    _check(promise, signal, truth, len(vectors))
    probabilities = [heads.predict_proba_at(vectors, dim) for dim in heads.dims_]
    answers = np.array([found.argmax(axis=1) for found in probabilities])
    data = hashlib.sha256(np.ascontiguousarray(vectors).tobytes())
    data.update(json.dumps(truth.tolist(), default=str).encode())
    table = _Table(
        dims=heads.dims_,
        signals=np.array([signal_of(found, signal) for found in probabilities]),
        agrees=(answers == answers[-1]).astype(np.float64),
        right=(heads.classes_[answers] == truth).astype(np.float64),
        measure=promise.measure,
        signal=signal,
        about={"classifier": heads.digest, "calibration": data.hexdigest()},
    )
    return table, split_queries(len(truth), seed=seed)


def _check(promise: Promise, signal: Signal, labels: NDArray[Any], n: int) -> None:
    if promise.measure not in MEASURES:
        raise InputError(
            f"an exit policy can promise {' or '.join(MEASURES)}, got {promise.measure!r}"
        )
    if promise.kind == "expected" and promise.measure == "accuracy":
        raise InputError(
            "an expected promise needs a loss that never rises as more is read, and whether an "
            "answer is right can go either way",
            hint="promise agreement@full, or a mean accuracy with a confidence",
        )
    if promise.groups:
        raise InputError(
            f"an exit policy is certified for all examples together, got the groups "
            f"{', '.join(promise.groups)}"
        )
    if signal not in ("probability", "margin"):
        raise InputError(f"signal must be probability or margin, got {signal!r}")
    if labels.shape != (n,):
        raise InputError(
            f"expected one label for each of the {n} vectors, got shape {labels.shape}"
        )
    if not 0 < promise.floor < 1:
        raise InputError(f"floor must be above 0 and below 1, got {promise.floor}")
    needed = max(8, 2 * needed_for(promise))
    if n < needed:
        sure = f" at {promise.confidence:.4g} confidence" if promise.confidence else ""
        raise TooFewError(
            f"at least {needed} labelled examples are needed, half of them to certify a floor of "
            f"{promise.floor:g}{sure}, got {n}",
            hint="give more examples, or lower the floor or the confidence",
            needed=needed,
        )
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"expected labels of at least two classes, got only {labels.tolist()[0]!r}"
        )


def _fixed(table: _Table) -> list[ExitPolicy]:
    return [ExitPolicy((dim,), (), table.signal) for dim in table.dims[:-1]]


def _cascades(table: _Table, rows: NDArray[np.integer]) -> list[ExitPolicy]:
    """One policy for each budget: stop where the chance of another answer is within it."""
    fits = [
        _chance_of_change(signals[rows], 1 - agrees[rows])
        for signals, agrees in zip(table.signals[:-1], table.agrees[:-1], strict=True)
    ]
    policies = [_within(float(budget), fits, table) for budget in BUDGETS]
    return list(dict.fromkeys(policy for policy in policies if policy.dims != table.dims[-1:]))


def _chance_of_change(
    signals: NDArray[np.float64], changed: NDArray[np.float64]
) -> tuple[float, float]:
    """Level and slope of a logistic regression of `changed` on the logit of the signal.

    Half an example of either kind is spread over all of them: where none was seen to change, the
    chance is small and not 0 (the rule of Krichevsky and Trofimov).
    """
    n = len(changed)
    inputs = logit(np.clip(signals, _SURE, 1 - _SURE))
    goal = (changed * n + 0.5) / (n + 1)
    middle, spread = float(inputs.mean()), max(float(inputs.std()), _SURE)
    scaled = (inputs - middle) / spread

    def loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = line[0] + line[1] * scaled
        errors = expit(logits) - goal
        # a penalty that is felt only where the two kinds lie apart and the slope has no end
        value = np.logaddexp(0, logits) - goal * logits
        slopes = np.array([errors.sum(), errors @ scaled + 0.01 * line[1]])
        return float(value.sum() + 0.005 * line[1] ** 2), slopes

    level, slope = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return float(level - slope * middle / spread), float(slope / spread)


def _within(budget: float, fits: Sequence[tuple[float, float]], table: _Table) -> ExitPolicy:
    """The policy that stops where every fitted chance of another answer is at most `budget`."""
    dims: list[int] = []
    thresholds: list[float] = []
    for dim, (level, slope) in zip(table.dims, fits, strict=False):
        if slope < 0:
            threshold = float(expit((logit(budget) - level) / slope))
        else:  # the signal says nothing here: all stop, or none
            threshold = 0.0 if level <= logit(budget) else _NEVER
        if threshold < _SURE:
            return ExitPolicy((*dims, dim), tuple(thresholds), table.signal)
        if threshold <= 1 - _SURE:
            dims.append(dim)
            thresholds.append(threshold)
    return ExitPolicy((*dims, table.dims[-1]), tuple(thresholds), table.signal)


def _certify(
    table: _Table, split: Split, candidates: Sequence[_Outcome], promise: Promise, *, seed: int
) -> CertifiedExits:
    """Walk the candidates from the one that reads most, and report on the one that was reached."""
    whole = table.whole
    walk = sorted(candidates, key=lambda one: -one.mean_dims(split.order))
    trials: list[Trial] = []
    if promise.kind == "expected":
        passed = _conformal(promise, [whole, *walk], split) - 1
    else:
        for one in walk:
            learned = one.values[split.order], whole.values[split.order]
            part = one.values[split.certify], whole.values[split.certify]
            trials.append(try_promise(promise, *part, learned=learned))
            if not trials[-1].passed:
                break
        passed = sum(trial.passed for trial in trials)
    chosen = walk[passed - 1] if passed else whole
    needed = None
    if not passed and trials:
        found = queries_needed(promise, walk[0].values[split.certify], whole.values[split.certify])
        needed = None if found is None else 2 * found
    evidence = {
        **table.about,
        "signal": table.signal,
        "split": {
            "ordering": len(split.order),
            "certifying": len(split.certify),
            "reporting": len(split.report),
        },
        "seed": seed,
        "candidates": [
            {
                "dims": list(one.policy.dims),
                "expected_dims": one.mean_dims(split.order),
                "p_value": trials[i].p_value if i < len(trials) else None,
                "certified": i < passed,
            }
            for i, one in enumerate(walk)
        ],
        "needed": needed,
        **_report(chosen, whole, split.report, promise.confidence or 0.95),
        "matryo": version("matryo"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    evidence["explanation"] = _explain(chosen.policy, promise, evidence)
    return CertifiedExits(chosen.policy, promise, bool(passed), evidence)


def _conformal(promise: Promise, walk: Sequence[_Outcome], split: Split) -> int:
    """How many of the walk, from the full width on, an expected promise lets pass.

    An answer that changes at one policy may change back at one that reads less. What counts as lost
    here is an answer that changed at this policy or at any before it: never less than the loss, and
    it never falls along the walk.
    """
    losses = 1 - np.array([one.values[split.certify] for one in walk])
    setting = conformal_knob(np.maximum.accumulate(losses)[::-1], 1 - promise.floor)
    assert setting is not None  # noqa: S101  # the full width loses nothing, and there are enough
    return len(walk) - setting


def _report(
    chosen: _Outcome, whole: _Outcome, rows: NDArray[np.integer], confidence: float
) -> dict[str, Any]:
    """Figures on examples that had no part in the choice, with intervals."""
    full_dim = int(whole.dims[0])
    share = chosen.dims[rows] / full_dim
    right, full = chosen.right[rows], whole.right[rows]

    def around(values: NDArray[np.float64]) -> list[float]:
        return list(mean_interval(values, confidence=confidence))

    return {
        "expected_dims": float(share.mean() * full_dim),
        "expected_dims_interval": [end * full_dim for end in around(share)],
        "full_dim": full_dim,
        "accuracy": float(right.mean()),
        "accuracy_interval": around(right),
        "full_accuracy": float(full.mean()),
        "full_accuracy_interval": around(full),
        "kept": float(right.mean() / full.mean()) if full.any() else None,
        "kept_interval": list(share_interval(right, full, confidence=confidence))
        if full.any()
        else None,
        "agreement": float(chosen.agrees[rows].mean()),
        "agreement_interval": around(chosen.agrees[rows]),
        "stopped_at": {
            str(dim): float(np.mean(chosen.dims[rows] == dim)) for dim in chosen.policy.dims
        },
    }


def _explain(policy: ExitPolicy, promise: Promise, evidence: Mapping[str, Any]) -> list[str]:
    """Five sentences: what, its promise, its cost, its neighbors, its evidence."""
    full_dim, split, tried = evidence["full_dim"], evidence["split"], evidence["candidates"]
    passed = sum(one["certified"] for one in tried)
    what = f"Read {policy.dims[0]} numbers of each vector"
    if not passed:
        what = f"Read all {full_dim} numbers: nothing smaller could be certified"
        if evidence["needed"]:
            what += f", which would take about {evidence['needed']:,} examples like these"
    elif policy.thresholds:
        steps = [
            f"{threshold:.3f} at {dim}"
            for dim, threshold in zip(policy.dims, policy.thresholds, strict=False)
        ]
        what += (
            f", and go on through {', '.join(map(str, policy.dims[1:]))} while the {policy.signal} "
            f"of the likeliest class is below {', '.join(steps)}"
        )
    low, high = evidence["accuracy_interval"]
    cost = (
        f"It reads {evidence['expected_dims']:.0f} numbers on average, "
        f"{evidence['expected_dims'] / full_dim:.0%} of {full_dim}, with an accuracy of "
        f"{evidence['accuracy']:.3f} ({low:.3f} to {high:.3f}); the full width has "
        f"{evidence['full_accuracy']:.3f}"
    )
    neighbors = f"Of {len(tried)} policies, all that were tried passed"
    if passed < len(tried):
        after = tried[passed]
        p_value = "" if after["p_value"] is None else f" (p = {after['p_value']:.2g})"
        neighbors = (
            f"Of {len(tried)} policies {passed} passed, from the safest on; the next one, which "
            f"reads {after['expected_dims']:.0f}, did not{p_value}"
        )
    evidence_line = (
        f"{split['ordering']} examples put the policies in order, {split['certifying']} others "
        f"certified, and {split['reporting']} more gave the figures (data "
        f"{evidence['calibration'][:12]}, {evidence['date']}, matryo {evidence['matryo']})"
    )
    return [f"{line}." for line in (what, _promised(promise), cost, neighbors, evidence_line)]


def _promised(promise: Promise) -> str:
    floor = f"at least {promise.floor:g}"
    if promise.kind == "expected":
        return (
            f"The expected share of answers that are those of the full width is {floor}, with no "
            "confidence attached, on examples like these"
        )
    if promise.measure == "agreement@full":
        said = f"{floor} of all answers are those of the full width"
    elif promise.kind == "share":
        said = f"{floor} of all answers are right wherever the full width's are"
    else:
        said = f"the accuracy is {floor} of the full width's"
    return f"With {promise.confidence:.4g} confidence, {said}, on examples like these"
