"""Fit heads at every size on labelled data, and certify how early a cascade may stop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matryo.cascade import HeadKind, NestedClassifier, Signal
from matryo.core import (
    Encoder,
    InputError,
    Nesting,
    Plan,
    Promise,
    Side,
    SideSpec,
    Space,
    Transform,
)
from matryo.encoders import EncodingCache
from matryo.jobs.opening import Opening, Progress
from matryo.jobs.sources import open_source
from matryo.planning.exits import CertifiedExits, certify_dim, certify_exits
from matryo.readers import LabelledData, LabelledVectors
from matryo.transforms import load_transform
from matryo.transforms import pre_step as apply_pre_step

CLASSIFYING_FORMAT = 1


@dataclass(frozen=True)
class Classified:
    """What came of a run.

    Attributes:
        document: Everything that was found, as plain values.
        plan: Where to stop, with its promise; the full width where nothing smaller was certified.
        classifier: The heads that the plan is for.
    """

    document: dict[str, Any]
    plan: Plan
    classifier: NestedClassifier


def classify(
    data: str | Path | LabelledData | LabelledVectors,
    *,
    floor: float = 0.99,
    confidence: float = 0.95,
    measure: str = "accuracy",
    kind: Literal["mean", "share", "expected"] = "mean",
    head: HeadKind = "separate",
    dims: str | Iterable[int] | None = None,
    signal: Signal = "margin",
    transform: str | Path | Transform | None = None,
    model: str | Encoder = "default",
    model_options: Mapping[str, Any] | None = None,
    pre_step: str | None = None,
    synthetic: bool = False,
    split: str | None = None,
    cache: EncodingCache | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Classified:
    """Fit heads on the training part, and certify on the test part how early they may stop.

    Args:
        data: A folder of labelled texts, or an .npz with `train`, `train_labels`, `test` and
            `test_labels`. All texts are encoded as documents.
        floor: What is kept: a share of the full-width accuracy (mean), or of examples (share).
        confidence: Of the promise; an expected one has none.
        measure: `accuracy`, or `agreement@full`, the share of answers that are the full width's.
        kind: `mean`, `share` or `expected`; see `matryo.planning.exits.certify_exits`.
        head: `separate`, `tied` or `nearest_mean`.
        dims: Sizes; by default powers of two from 8, and the full width.
        signal: What decides whether a row may stop: `margin` or `probability`.
        transform: A fitted transform, or its file, to apply to all vectors first.
        model: Name of an encoder for texts, or an encoder.
        model_options: Options of the encoder.
        pre_step: Step on whole vectors before the cut, for vectors from files that do not say.
        synthetic: Declare that these data were made up.
        split: Split of a folder to certify on, by default `test`.
        cache: Where encodings are kept; by default nowhere.
        seed: Seed of the split into ordering, certifying and reporting part.
        progress: Called with a stage's name, the number done since the last call, and the total.

    Raises:
        TooFewError: so few test examples that no outcome could carry the promise.
        InputError: data or options that do not fit.
        FormatError: a file that is damaged or of no known format.
    """
    started = time.perf_counter()
    promise = Promise(
        kind,
        measure,
        floor,
        confidence=None if kind == "expected" else confidence,
        query_floor=1.0 if kind == "share" else None,
    )
    source = open_source(data, split=split)
    if not isinstance(source, (LabelledData, LabelledVectors)):
        raise InputError(
            f"expected labelled data, got {source.name}",
            hint="a folder with train and test texts and their labels, or such an .npz",
        )
    opening = Opening(
        model,
        model_options or {},
        cache,
        progress or (lambda *_: None),
        pre_step=pre_step,
        n_queries=1,
        seed=seed,
    )
    train, test = _vectors(source, opening)
    space = opening.space or Space("vectors of an unnamed model", train.shape[1])
    fitted = load_transform(transform) if isinstance(transform, (str, Path)) else transform
    if fitted is not None:
        train, test = fitted.transform(train), fitted.transform(test)
        space = _mapped(space, fitted, train.shape[1])
    sizes = None if dims is None else Nesting.parse(dims, full_dim=train.shape[1]).dims
    fitting = time.perf_counter()
    classifier = NestedClassifier(sizes, head).fit(train, source.train_labels)
    certifying = time.perf_counter()
    found = certify_exits(classifier, test, source.test_labels, promise, signal=signal, seed=seed)
    fixed = certify_dim(classifier, test, source.test_labels, promise, seed=seed)
    finished = time.perf_counter()
    rows = [_row("cascade", found), _row("fixed size", fixed), _full_row(found)]
    document = {
        "format": CLASSIFYING_FORMAT,
        "kind": "classify",
        "matryo": version("matryo"),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": {
            "name": source.name,
            "task": "labelled",
            "origin": "synthetic" if synthetic else "real",
            "train": len(train),
            "test": len(test),
            "classes": len(classifier.classes_),
            "left_out": opening.left_out,
        },
        "space": space.to_dict(),
        "fingerprint": space.fingerprint,
        "settings": {
            "dims": list(classifier.dims_),
            "head": head,
            "C": classifier.C,
            "signal": signal,
            "seed": seed,
        },
        "promise": asdict(promise),
        "verdict": {
            "headline": _headline(found, fixed),
            "sentences": found.evidence["explanation"],
        },
        "split": found.evidence["split"],
        "needed": found.evidence["needed"],
        "results": rows,
        "candidates": found.evidence["candidates"],
        "seconds": {
            "encode": round(opening.seconds, 3),
            "fit": round(certifying - fitting, 3),
            "certify": round(finished - certifying, 3),
            "all": round(finished - started, 3),
        },
    }
    plan = found.to_plan(space, transform=None if fitted is None else fitted.digest)
    return Classified(document, plan, classifier)


def _vectors(
    source: LabelledData | LabelledVectors, opening: Opening
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Vectors of both parts, on one side of the space: heads know nothing of the other."""
    if isinstance(source, LabelledData):
        train = opening.encode(source.train, Side.DOCUMENT)
        return train, opening.encode(source.test, Side.DOCUMENT)
    name = opening.pre_step
    return apply_pre_step(source.train, name), apply_pre_step(source.test, name)


def _mapped(space: Space, fitted: Transform, full_dim: int) -> Space:
    """The space after a transform."""

    def after(side: SideSpec) -> SideSpec:
        return replace(side, map=fitted.digest)

    return replace(
        space, full_dim=full_dim, query=after(space.query), document=after(space.document)
    )


def _row(name: str, found: CertifiedExits) -> dict[str, Any]:
    """What the reporting part said of a policy."""
    evidence = found.evidence
    figures = {
        one: {"value": evidence[one], "interval": evidence[f"{one}_interval"]}
        for one in ("expected_dims", "accuracy", "kept", "agreement")
    }
    return {"name": name, "certified": found.certified, **asdict(found.policy), **figures}


def _full_row(found: CertifiedExits) -> dict[str, Any]:
    evidence, full_dim = found.evidence, found.evidence["full_dim"]
    accuracy = {"value": evidence["full_accuracy"], "interval": evidence["full_accuracy_interval"]}
    exactly = {"value": 1.0, "interval": [1.0, 1.0]}
    return {
        "name": "full width",
        "certified": True,
        "dims": [full_dim],
        "thresholds": [],
        "signal": found.policy.signal,
        "expected_dims": {"value": float(full_dim), "interval": [float(full_dim)] * 2},
        "accuracy": accuracy,
        "kept": exactly,
        "agreement": exactly,
    }


def _headline(found: CertifiedExits, fixed: CertifiedExits) -> str:
    evidence, promise = found.evidence, found.promise
    if not found.certified:
        return "Stay at the full width: no policy that reads less could be certified."
    sure = "" if promise.confidence is None else f", with {promise.confidence:.4g} confidence"
    what = (
        "of the full-width accuracy"
        if promise.measure == "accuracy"
        else "of the full width's answers"
    )
    alone = (
        f"{fixed.policy.dims[-1]} are the smallest fixed size that does"
        if fixed.certified
        else "no fixed size below the full width does"
    )
    return (
        f"{evidence['expected_dims']:.0f} of {evidence['full_dim']} numbers on average keep "
        f"{promise.floor:.4g} {what}{sure}; {alone}."
    )
