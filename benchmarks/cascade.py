"""What a certified cascade reads, beside the smallest fixed size and the paper's greedy rule.

python benchmarks/cascade.py [--quick] --json out.json [--banking77 FOLDER] [--cifar FEATURES.npz]

Heads are fitted on the training part. The test part is split by a seed into ordering, certifying
and reporting examples; every figure is of the reporting examples, and the median over the seeds.
`cascade` and `fixed size` carry the same promise: with 95 % confidence the accuracy is at least a
share (the floor) of the full width's. `greedy` is the rule of Kusupati and others 2022, section
4.2.1: for each size the threshold on the probability of the likeliest class that is most accurate
for this size and the next one, here set on ordering and certifying examples together. It promises
nothing.

Banking77 is real data, encoded by the packaged models. The image features are real data too, see
tools/cifar_features.py; they are not nested, so a rotation fitted on the training part comes first.
What is missing is left out with a message; where all is missing, synthetic classes stand in.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from matryo.cascade import Cascade, NestedClassifier, signal_of
from matryo.core import ExitPolicy, MissingExtraError, Promise, Side
from matryo.encoders import EncodingCache, encode_texts, encoder
from matryo.planning import split_queries
from matryo.planning.exits import CertifiedExits, certify_dim, certify_exits
from matryo.readers import LabelledData, LabelledVectors, open_dataset
from matryo.transforms import Rotation, pre_step

Floats = NDArray[np.floating]
SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Task:
    """Labelled vectors, and what is promised on them."""

    name: str
    origin: str
    floor: float
    train: Floats
    train_labels: NDArray[Any]
    test: Floats
    test_labels: NDArray[Any]


def tasks(banking: Path, cifar: Path | None, models: list[str]) -> Iterator[Task]:
    """Everything that is there."""
    if banking.is_dir():
        data = open_dataset(banking)
        assert isinstance(data, LabelledData)
        labels = np.array(data.train_labels), np.array(data.test_labels)
        with EncodingCache() as cache:
            for model in models:
                try:
                    used = encoder(model)
                except MissingExtraError as error:
                    print(f"left out: Banking77 with {model}: {error}")
                    continue
                step = used.space.document.pre_step
                train, test = (
                    pre_step(encode_texts(used, texts, side=Side.DOCUMENT, cache=cache), step)
                    for texts in (data.train.texts, data.test.texts)
                )
                yield Task(
                    f"Banking77, {model}", "banking77", 0.99, train, labels[0], test, labels[1]
                )
    else:
        print(f"left out: Banking77, which is not at {banking} (--banking77)")
    if cifar is not None and cifar.is_file():
        arrays = open_dataset(cifar)
        assert isinstance(arrays, LabelledVectors)
        rotation = Rotation().fit(arrays.train)
        yield Task(
            "CIFAR-10 features, rotated",
            "cifar10-small",
            0.97,
            rotation.transform(arrays.train),
            arrays.train_labels,
            rotation.transform(arrays.test),
            arrays.test_labels,
        )
    else:
        print("left out: image features (--cifar; made by tools/cifar_features.py)")


def synthetic() -> Task:
    """Made-up classes whose first numbers say most."""
    rng = np.random.default_rng(0)
    scale = 0.97 ** np.arange(128)
    centres = rng.normal(size=(20, 128)) * scale
    codes = rng.integers(0, 20, 6000)
    vectors = centres[codes] + 1.3 * rng.normal(size=(6000, 128)) * scale**0.5
    labels, vectors = codes.astype(str), vectors.astype(np.float32)
    return Task(
        "made-up classes", "", 0.99, vectors[:3000], labels[:3000], vectors[3000:], labels[3000:]
    )


def greedy_policy(
    classifier: NestedClassifier, vectors: Floats, labels: NDArray[Any]
) -> ExitPolicy:
    """Thresholds one pair of neighbouring sizes at a time, by best accuracy."""
    found = [classifier.predict_proba_at(vectors, dim) for dim in classifier.dims_]
    right = [classifier.classes_of(one) == labels for one in found]
    grid = np.linspace(0, 1, 101)
    thresholds = []
    for small, here, after in zip(found, right, right[1:], strict=False):
        signal = signal_of(small, "probability")
        accuracy = [float(np.mean(np.where(signal >= limit, here, after))) for limit in grid]
        thresholds.append(float(grid[int(np.argmax(accuracy))]))
    return ExitPolicy(classifier.dims_, tuple(thresholds), "probability")


def measure(task: Task, head: str, seeds: int) -> list[dict[str, Any]]:
    """One row for each way to classify with heads of this kind."""
    started = time.perf_counter()
    classifier = NestedClassifier(head=head).fit(task.train, task.train_labels)
    fitted = time.perf_counter() - started
    promise = Promise("mean", "accuracy", task.floor, confidence=CONFIDENCE)
    seen: dict[str, list[tuple[float, float, float]]] = {}
    seconds = []

    def note(name: str, dims: float, accuracy: float, full: float) -> None:
        seen.setdefault(name, []).append((dims, accuracy, accuracy / full))

    def note_certified(name: str, one: CertifiedExits) -> None:
        evidence = one.evidence
        note(name, evidence["expected_dims"], evidence["accuracy"], evidence["full_accuracy"])

    for seed in range(seeds):
        started = time.perf_counter()
        found = certify_exits(classifier, task.test, task.test_labels, promise, seed=seed)
        seconds.append(time.perf_counter() - started)
        note_certified("cascade", found)
        other = certify_exits(
            classifier, task.test, task.test_labels, promise, seed=seed, signal="probability"
        )
        note_certified("cascade by probability", other)
        fixed = certify_dim(classifier, task.test, task.test_labels, promise, seed=seed)
        note_certified("fixed size", fixed)
        full_dim, full = float(classifier.n_features_in_), found.evidence["full_accuracy"]
        note("full width", full_dim, full, full)
        parts = split_queries(len(task.test), seed=seed)
        known = np.concatenate([parts.order, parts.certify])
        greedy = Cascade(
            classifier, greedy_policy(classifier, task.test[known], task.test_labels[known])
        ).report(task.test[parts.report], task.test_labels[parts.report])
        note("greedy", greedy.expected_dims, greedy.accuracy, greedy.full_accuracy)
    by_seed = {name: np.array(values) for name, values in seen.items()}
    fixed_dims = by_seed["fixed size"][:, 0]
    rows = []
    for name, values in by_seed.items():
        dims, accuracy, kept = np.median(values, axis=0).tolist()
        ratios = values[:, 0] / fixed_dims
        rows.append(
            {
                "name": f"{task.name}, {head} heads: {name}",
                "expected_dims": dims,
                "expected_dims_low": float(values[:, 0].min()),
                "expected_dims_high": float(values[:, 0].max()),
                "of_fixed_size": float(np.median(ratios)),
                "accuracy": accuracy,
                "kept": kept,
                "points_below_full": float(
                    100 * np.median(by_seed["full width"][:, 1] - values[:, 1])
                ),
                "seeds_below_floor": int(np.sum(values[:, 2] < task.floor)),
                "seeds": seeds,
                "floor": task.floor,
                "confidence": None if name == "greedy" else CONFIDENCE,
                "certify_seconds": float(np.median(seconds)) if name == "cascade" else None,
                "fit_seconds": fitted if name == "cascade" else None,
            }
        )
    return rows


def main() -> None:
    """Run everything and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few seeds, one model, one head")
    parser.add_argument("--json", required=True, type=Path, help="file to write")
    parser.add_argument("--banking77", type=Path, default=SHARED / "banking77", help="folder")
    parser.add_argument("--cifar", type=Path, help="image features as .npz")
    parser.add_argument("--models", default="default,minilm", help="encoders of the texts")
    parser.add_argument("--seeds", type=int, default=11, help="splits of the test part")
    options = parser.parse_args()
    models = options.models.split(",")[: 1 if options.quick else None]
    heads = ("separate",) if options.quick else ("separate", "tied")
    seeds = 3 if options.quick else options.seeds
    found = list(tasks(options.banking77, options.cifar, models)) or [synthetic()]
    # on a shared machine the threads of small products wait for one another
    with threadpool_limits(1, user_api="blas"):
        results = [row for task in found for head in heads for row in measure(task, head, seeds)]
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    names = sorted({task.origin for task in found} - {""})
    document = {
        "benchmark": "cascade",
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python "
        f"{platform.python_version()}, numpy {np.__version__}",
        "data": f"real: {', '.join(names)}" if names else "synthetic",
        "results": results,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(f"{'':58} dims (least to most)   of fixed  kept    points  below floor")
    for row in results:
        span = f"({row['expected_dims_low']:.0f} to {row['expected_dims_high']:.0f})"
        print(
            f"{row['name']:58} {row['expected_dims']:6.1f} {span:15} {row['of_fixed_size']:9.3f} "
            f"{row['kept']:7.4f} {row['points_below_full']:7.2f}  "
            f"{row['seeds_below_floor']} of {row['seeds']}"
        )


if __name__ == "__main__":
    main()
