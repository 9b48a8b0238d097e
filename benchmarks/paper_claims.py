"""What Kusupati and others 2022 claim of nested training, tried again at small scale.

python benchmarks/paper_claims.py [--quick] --json out.json [--banking77 FOLDER]
    [--photos images.zip] [--cifar FEATURES.npz] [--tune]

The claims are of "Matryoshka representation learning": nested sizes do as well as models trained
for one size each; one matrix for all sizes (MRL-E) pays for that at the smallest sizes alone; sizes
that were not trained interpolate; doubling the weight of the smallest size helps it and costs the
others little. Two are ours: a bias and a scale of its own for every size mend the smallest sizes of
MRL-E, and training every 8th size too costs the halving ones nothing, with all sizes weighing the
same, or with every octave weighing 1.

Every claim is a difference of accuracies, in percentage points, between two ways to train that
share encoder, start values, order of batches and recipe. Its interval takes seeds and test examples
both for random draws (a crossed two-way layout, Satterthwaite's degrees of freedom), holds for all
sizes of a claim and a task together at 95 % confidence (Bonferroni), and is conditional on the
training examples, which are the same for all seeds. The margin for "not worse" is one point.

Tasks: scikit-learn's digits, which are always there; CIFAR-10 photos (tools/cifar_features.py says
in which zip) by a small convolutional network; the features which that script makes of them; and
Banking77 encoded by MiniLM, whose 77 classes are nearest to the paper's 1,000. What is missing is
left out with a message. `--tune` prints how recipes do on a fifth of the training examples that is
held out; the recipes below are the best ones, chosen once and for all arms.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from matryo.core import MissingExtraError, Nesting, Side
from matryo.encoders import EncodingCache, encode_texts, encoder
from matryo.readers import LabelledData, LabelledVectors, open_dataset
from matryo.training import NestedLinear
from matryo.transforms import pre_step

Row = dict[str, Any]
Floats = NDArray[np.floating[Any]]
SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
CONFIDENCE = 0.95
MARGIN = 1.0  # percentage points that "not worse" may hide
BATCH = 128
DECAY = 0.05
SMALLEST = 2
DENSE_STEP = 8


class Head(TypedDict, total=False):
    """What a head is made with, beside dims and classes."""

    tied: bool
    bias: Literal["per_size", "shared"] | None
    scales: bool
    weights: list[float]


@dataclass(frozen=True)
class Recipe:
    """How to train, beside a batch of 128; the rate falls to 0 along a cosine."""

    rate: float
    epochs: int


@dataclass(frozen=True)
class Task:
    """Labelled examples, the encoder to train for them, and how."""

    name: str
    origin: str
    full_dim: int
    encoder: Callable[[int], nn.Module]
    recipe: Recipe
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    mirrored: bool = False

    @property
    def dims(self) -> tuple[int, ...]:
        """The trained sizes: halving, from 2 up."""
        return Nesting.halving(self.full_dim, smallest=SMALLEST).dims

    @property
    def alone(self) -> tuple[int, ...]:
        """The sizes that get a model of their own: the small ones and the full width."""
        return tuple(dim for dim in self.dims if dim <= 32 or dim == self.full_dim)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.train_labels.max()) + 1


@dataclass(frozen=True)
class Outcome:
    """Which test examples were right by the head and by 1-NN: `(seeds, examples)` for each size."""

    head: dict[int, Floats]
    nearest: dict[int, Floats]


def perceptron(inputs: int, hidden: int) -> Callable[[int], nn.Module]:
    """An encoder of vectors with one hidden layer, by its width."""
    return lambda width: nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
    )


def convolutions(width: int) -> nn.Module:
    """An encoder of `(n, 3, 32, 32)` photos: 8 x 8 patches of 4 x 4, then one convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, stride=4, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, width),
    )


def digits(recipe: Recipe) -> Task:
    """8 x 8 pictures of handwritten digits, in a fixed random order, 1,000 to train."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    rows = torch.from_numpy(pixels[order] / 16).float()
    codes = torch.from_numpy(labels[order]).long()
    return Task(
        "digits, perceptron",
        "digits",
        32,
        perceptron(64, 64),
        recipe,
        rows[:1000],
        codes[:1000],
        rows[1000:],
        codes[1000:],
    )


def photos(path: Path, recipe: Recipe) -> Task:
    """CIFAR-10 photos in a zip with entries `train/<class>/<number>.jpg` and `test/...`."""
    from PIL import Image

    pixels: dict[str, list[Any]] = {"train": [], "test": []}
    names: dict[str, list[str]] = {"train": [], "test": []}
    with zipfile.ZipFile(path) as archive:
        for entry in sorted(name for name in archive.namelist() if name.endswith(".jpg")):
            split, label, _ = entry.split("/")
            photo = Image.open(io.BytesIO(archive.read(entry))).convert("RGB")
            pixels[split].append(np.asarray(photo, dtype=np.float32) / 255)
            names[split].append(label)
    rows = {split: np.stack(each).transpose(0, 3, 1, 2) for split, each in pixels.items()}
    mean, spread = (
        what(rows["train"], axis=(0, 2, 3), keepdims=True) for what in (np.mean, np.std)
    )
    return _task(
        "CIFAR-10 photos, convolutions",
        "cifar10-small",
        64,
        convolutions,
        recipe,
        (rows["train"] - mean) / spread,
        names["train"],
        (rows["test"] - mean) / spread,
        names["test"],
        mirrored=True,
    )


def features(path: Path, recipe: Recipe) -> Task:
    """Features of CIFAR-10 photos by EfficientNet-Lite0, as tools/cifar_features.py writes them."""
    data = open_dataset(path)
    assert isinstance(data, LabelledVectors)
    return _task(
        "CIFAR-10 features, perceptron",
        "cifar10-small",
        256,
        perceptron(data.train.shape[1], 128),
        recipe,
        data.train,
        data.train_labels,
        data.test,
        data.test_labels,
    )


def banking(path: Path, recipe: Recipe) -> Task:
    """Questions to a bank, 77 intents, encoded by MiniLM."""
    data = open_dataset(path)
    assert isinstance(data, LabelledData)
    used = encoder("minilm")
    with EncodingCache() as cache:
        train, test = (
            pre_step(
                encode_texts(used, texts, side=Side.DOCUMENT, cache=cache),
                used.space.document.pre_step,
            )
            for texts in (data.train.texts, data.test.texts)
        )
    return _task(
        "Banking77 by MiniLM, perceptron",
        "banking77",
        256,
        perceptron(train.shape[1], 128),
        recipe,
        train,
        data.train_labels,
        test,
        data.test_labels,
    )


def _task(
    name: str,
    origin: str,
    full_dim: int,
    encode: Callable[[int], nn.Module],
    recipe: Recipe,
    train: Floats,
    train_labels: Any,
    test: Floats,
    test_labels: Any,
    *,
    mirrored: bool = False,
) -> Task:
    classes, codes = np.unique(np.asarray(train_labels), return_inverse=True)
    return Task(
        name,
        origin,
        full_dim,
        encode,
        recipe,
        torch.from_numpy(np.array(train, dtype=np.float32)),
        torch.from_numpy(codes),
        torch.from_numpy(np.array(test, dtype=np.float32)),
        torch.from_numpy(np.searchsorted(classes, np.asarray(test_labels))),
        mirrored,
    )


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    """Everything that is there; the quick form is the digits alone."""
    if options.quick:
        yield digits(Recipe(rate=1e-1, epochs=10))
        return
    yield digits(Recipe(rate=1e-1, epochs=30))
    if options.cifar is not None and options.cifar.is_file():
        yield features(options.cifar, Recipe(rate=3e-2, epochs=20))
    else:
        print("left out: image features (--cifar; made by tools/cifar_features.py)")
    if options.photos.is_file():
        try:
            yield photos(options.photos, Recipe(rate=1e-2, epochs=10))
        except ImportError:
            print("left out: photos, which pillow reads: pip install pillow")
    else:
        print(f"left out: photos, which are not at {options.photos} (--photos)")
    if options.banking77.is_dir():
        try:
            yield banking(options.banking77, Recipe(rate=3e-2, epochs=5))
        except MissingExtraError as error:
            print(f"left out: Banking77: {error}")
    else:
        print(f"left out: Banking77, which is not at {options.banking77} (--banking77)")


def fit(task: Task, dims: tuple[int, ...], head: Head, seed: int) -> tuple[nn.Module, NestedLinear]:
    """An encoder as wide as the last of `dims` and its heads, trained by the task's recipe."""
    torch.manual_seed(seed)
    encode = task.encoder(dims[-1])
    heads = NestedLinear(dims, task.classes, **head)
    order = torch.Generator().manual_seed(seed)  # one order of batches for every arm
    n, recipe = len(task.train), task.recipe
    inputs = torch.cat([task.train, task.train.flip(-1)]) if task.mirrored else task.train
    parameters = [*encode.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=DECAY, fused=True)
    steps = recipe.epochs * math.ceil(n / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(n, generator=order).split(BATCH):
            picked = rows
            if task.mirrored:
                picked = rows + n * torch.randint(2, rows.shape, generator=order)
            optimizer.zero_grad()
            heads.loss(encode(inputs[picked]), task.train_labels[rows]).loss.backward()
            optimizer.step()
            schedule.step()
    return encode.eval(), heads


def right_by_head(task: Task, encode: nn.Module, heads: NestedLinear) -> dict[int, Floats]:
    """1 where the likeliest class is the true one, `(examples,)` for each size."""
    with torch.inference_mode():
        found = heads(encode(task.test)).argmax(-1) == task.test_labels
    return dict(zip(heads.sizes.dims, found.numpy().astype(np.float32), strict=True))


def right_by_nearest(task: Task, encode: nn.Module, dims: tuple[int, ...]) -> dict[int, Floats]:
    """1 where the training example of the largest cosine has the true class, for each size."""
    with torch.inference_mode():
        train, test = encode(task.train), encode(task.test)
        products = torch.zeros(len(test), len(train))
        right = {}
        for start, dim in Nesting(dims).blocks:
            products.addmm_(test[:, start:dim], train[:, start:dim].T)
            # the length of the test example does not change which is nearest
            nearest = (products / train[:, :dim].norm(dim=1)).argmax(1)
            found = task.train_labels[nearest] == task.test_labels
            right[dim] = found.numpy().astype(np.float32)
    return right


def between(dims: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """Sizes halfway between two trained ones, and those two."""
    return {(small + large) // 2: (small, large) for small, large in pairwise(dims)}


MRL: Head = {"tied": False}
MRL_E: Head = {"tied": True, "bias": "shared"}
BIASES: Head = {"tied": True, "bias": "per_size"}
OURS: Head = {"tied": True, "bias": "per_size", "scales": True}
FULL = "MRL-E, own biases and scales"
DENSE = f"{FULL}, every {DENSE_STEP}th size"
OCTAVES = f"{DENSE}, an octave weighing 1"


def cut_anywhere(heads: NestedLinear, dims: tuple[int, ...]) -> NestedLinear:
    """The same matrix and shared bias, read at other sizes than the trained ones."""
    wider = NestedLinear(dims, len(heads.weight), **MRL_E)
    wider.load_state_dict(heads.state_dict())
    return wider


def arms_of(task: Task) -> dict[str, tuple[tuple[int, ...], Head]]:
    """Sizes and heads of everything that is trained, but for the separate models."""
    dims = task.dims
    many = tuple(sorted({*dims, *range(DENSE_STEP, task.full_dim + 1, DENSE_STEP)}))
    octaves = [min(dim for dim in dims if dim >= size) for size in many]
    by_octave: Head = {**OURS, "weights": [1 / octaves.count(octave) for octave in octaves]}
    doubled: Head = {**MRL, "weights": [2.0] + [1.0] * (len(dims) - 1)}
    return {
        "MRL": (dims, MRL),
        "MRL, smallest doubled": (dims, doubled),
        "MRL-E": (dims, MRL_E),
        "MRL-E, own biases": (dims, BIASES),
        FULL: (dims, OURS),
        DENSE: (many, OURS),
        OCTAVES: (many, by_octave),
    }


def train_all(task: Task, seeds: Iterable[int]) -> dict[str, Outcome]:
    """What every arm got right."""
    dims, arms = task.dims, arms_of(task)
    every = tuple(sorted({*dims, *between(dims)}))
    seen: dict[str, list[tuple[dict[int, Floats], dict[int, Floats]]]] = {}
    for seed in seeds:
        for name, (sizes, head) in arms.items():
            encode, heads = fit(task, sizes, head, seed)
            if head is MRL_E:
                heads = cut_anywhere(heads, every)
            found = right_by_head(task, encode, heads), right_by_nearest(task, encode, every)
            seen.setdefault(name, []).append(found)
        alone: tuple[dict[int, Floats], dict[int, Floats]] = ({}, {})
        for dim in task.alone:
            encode, heads = fit(task, (dim,), BIASES, seed)
            alone[0].update(right_by_head(task, encode, heads))
            alone[1].update(right_by_nearest(task, encode, (dim,)))
        seen.setdefault("separate models", []).append(alone)
    return {
        name: Outcome(*(_stacked([found[part] for found in each]) for part in (0, 1)))
        for name, each in seen.items()
    }


def _stacked(each: list[dict[int, Floats]]) -> dict[int, Floats]:
    return {dim: np.stack([one[dim] for one in each]) for dim in each[0]}


def interval(values: Floats, error: float) -> tuple[float, float, float]:
    """Mean of `(seeds, examples)` values, and an interval that misses with probability `error`.

    Seeds and examples are crossed and both random: the variance of the mean is that of the means of
    seeds, plus that of the means of examples, less the remainder, which both contain; its degrees
    of freedom are Satterthwaite's (Searle, Casella, McCulloch 1992, "Variance components").
    """
    seeds, examples = values.shape
    mean = float(values.mean())
    by_seed, by_example = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = values - by_seed - by_example + mean
    freedom = np.array([seeds - 1, examples - 1, (seeds - 1) * (examples - 1)])
    parts = np.array(
        [
            by_seed.var(ddof=1) / seeds,
            by_example.var(ddof=1) / examples,
            (rest**2).sum() / freedom[2] / (seeds * examples),
        ]
    )
    # a share of the variance is never below 0, though its estimate may be
    variance = max(parts[0] + parts[1] - parts[2], parts[0], parts[1])
    if not variance:
        return mean, mean, mean
    reach = stats.t.isf(error / 2, variance**2 / (parts**2 / freedom).sum()) * math.sqrt(variance)
    return mean, mean - reach, mean + reach


def verdict(low: float, high: float) -> str:
    """What an interval of a difference in points says."""
    if low > 0:
        return "higher"
    if low > -MARGIN:
        return "equal" if high < MARGIN else "not worse"
    if high < 0:
        return "lower"
    return "cannot tell"


def compare(
    task: Task, claim: str, measure: str, pairs: dict[int, tuple[Floats, Floats]]
) -> list[Row]:
    """One row for each size: how much the left one has more right than the right one."""
    error = (1 - CONFIDENCE) / len(pairs)
    rows = []
    for dim, (left, right) in pairs.items():
        mean, low, high = (100 * one for one in interval(left - right, error))
        rows.append(
            {
                "name": f"{task.name}: {claim}, {measure}, {dim}",
                "task": task.name,
                "claim": claim,
                "measure": measure,
                "dim": dim,
                "accuracy_percent": 100 * float(left.mean()),
                "other_percent": 100 * float(right.mean()),
                "difference_points": mean,
                "low_points": low,
                "high_points": high,
                "verdict": verdict(low, high),
                "seeds": len(left),
                "examples": left.shape[1],
            }
        )
    return rows


def claims(task: Task, found: dict[str, Outcome]) -> list[Row]:
    """The rows of every claim."""
    rows = []
    for left, right in (
        ("MRL", "separate models"),
        ("MRL-E", "MRL"),
        ("MRL, smallest doubled", "MRL"),
        ("MRL-E, own biases", "MRL-E"),
        (FULL, "MRL-E"),
        (FULL, "MRL"),
        (DENSE, FULL),
        (OCTAVES, FULL),
        (OCTAVES, DENSE),
    ):
        for measure in ("head", "nearest"):
            one, other = getattr(found[left], measure), getattr(found[right], measure)
            pairs = {dim: (one[dim], other[dim]) for dim in task.dims if dim in other}
            rows += compare(task, f"{left} beside {right}", measure, pairs)
    middles = between(task.dims)
    for name, measure in (("MRL", "nearest"), ("MRL-E", "head")):
        one = getattr(found[name], measure)
        pairs = {dim: (one[dim], (one[a] + one[b]) / 2) for dim, (a, b) in middles.items()}
        claim = f"{name}, sizes not trained beside the mean of their neighbors"
        rows += compare(task, claim, measure, pairs)
    one, other = found[FULL].nearest, found[DENSE].nearest
    pairs = {dim: (one[dim], other[dim]) for dim in middles if dim % DENSE_STEP == 0}
    rows += compare(task, "sizes not trained beside the same sizes trained", "nearest", pairs)
    return rows


def tune(task: Task) -> None:
    """Print the accuracy on held-out training examples by recipe, for nested and separate sizes."""
    held = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0))
    out, kept = held[: len(held) // 5], held[len(held) // 5 :]
    for rate in (3e-3, 1e-2, 3e-2, 1e-1):
        tried = replace(
            task,
            recipe=replace(task.recipe, rate=rate),
            train=task.train[kept],
            train_labels=task.train_labels[kept],
            test=task.train[out],
            test_labels=task.train_labels[out],
        )
        nested = right_by_head(tried, *fit(tried, task.dims, MRL, seed=1000))
        alone: dict[int, Floats] = {}
        for dim in task.dims[::2]:
            alone.update(right_by_head(tried, *fit(tried, (dim,), BIASES, seed=1000)))
        means = [float(np.mean([each[dim].mean() for dim in alone])) for each in (nested, alone)]
        print(
            f"{task.name}, rate {rate:g}: accuracy of nested sizes {means[0]:.3f}, of separate "
            f"models {means[1]:.3f}, mean {np.mean(means):.4f}",
            flush=True,
        )


def main() -> None:
    """Run what is there and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="digits, three seeds")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--banking77", type=Path, default=SHARED / "banking77", help="folder")
    parser.add_argument("--photos", type=Path, default=SHARED / "cifar10-small" / "images.zip")
    parser.add_argument("--cifar", type=Path, help="image features as .npz")
    parser.add_argument("--only", help="tasks whose name begins so")
    parser.add_argument("--seeds", type=int, default=10, help="trainings of every arm")
    parser.add_argument("--tune", action="store_true", help="try recipes, write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)  # such small products gain nothing from more
    found = [task for task in tasks(options) if task.name.startswith(options.only or "")]
    if options.tune:
        for task in found:
            tune(task)
        return
    if options.json is None:
        parser.error("say where to write: --json FILE")
    results: list[Row] = []
    for task in found:
        started = time.process_time()
        results += claims(task, train_all(task, range(3 if options.quick else options.seeds)))
        print(f"{task.name}: {time.process_time() - started:.0f} s of CPU", flush=True)
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    document = {
        "benchmark": "paper_claims",
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, 1 thread, Python "
        f"{platform.python_version()}, torch {torch.__version__}",
        "data": f"real: {', '.join(sorted({task.origin for task in found}))}",
        "results": results,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    heading = ""
    for row in results:
        table = f"{row['task']}: {row['claim']}, {row['measure']}"
        if table != heading:
            heading = table
            print(heading)
        print(
            f"{row['dim']:6} {row['accuracy_percent']:6.1f} {row['other_percent']:6.1f} "
            f"{row['difference_points']:+7.2f} ({row['low_points']:+.2f} to "
            f"{row['high_points']:+.2f})  {row['verdict']}"
        )


if __name__ == "__main__":
    main()
