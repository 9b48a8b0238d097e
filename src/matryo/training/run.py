"""One training run of a sentence-transformers model: a plain loop that can be killed and resumed.

What a step does follows from the seed and the number of the step alone (its batch, its dropout, the
sizes it draws), so that a checkpoint needs no random state, and a run that goes on from one ends
with the weights of a run that never stopped: bit for bit on the same machine with the same number
of threads. Several processes share each batch (`torchrun`), and end with the same weights as one
another.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from matryo.core import DIGEST_LENGTH, InputError, Side, TooFewError, VectorError
from matryo.readers import TrainingData
from matryo.training.cached import cached_step
from matryo.training.checkpoint import (
    find_checkpoint,
    read_checkpoint,
    restore,
    save_checkpoint,
    tensors_of,
)
from matryo.training.contrastive import nested_info_nce
from matryo.training.heads import nested_cosine_softmax
from matryo.training.pairs import cosent, nested_pairs
from matryo.training.ranks import check_ranks_agree, gather_with_grad, is_shared, own_targets
from matryo.training.result import NestedLoss
from matryo.training.sampling import SizeSampler
from matryo.training.sizes import Sizes

_CLIP = 1.0  # largest length of the gradient of a step
_SHOWN = 5  # places named in a message
_LOGGED = 100  # rows of the history
_PER_CLASS = 16  # texts whose mean is where the proxy of a class starts
_LONGEST = 2**63
# Which side of a search the texts of a column are on; scored pairs as they are measured.
_SIDES = {"anchor": Side.QUERY, "sentence1": Side.QUERY}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained.

    Attributes:
        sizes: Dims, and what they weigh.
        steps: Updates of the weights.
        batch_size: Examples in each step, of all processes together.
        learning_rate: Of AdamW, after the warmup; it falls to 0 in a line.
        warmup: Share of the steps in which the learning rate rises in a line.
        seed: Of everything random.
        scale: What cosines are multiplied by.
        cached: Texts that are encoded at a time, where a batch is too large for the memory.
        n_dims_per_step: Sizes drawn in each step; by default all.

    Raises:
        InputError: a number outside its range.
    """

    sizes: Sizes
    steps: int
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup: float = 0.1
    seed: int = 0
    scale: float = 20.0
    cached: int | None = None
    n_dims_per_step: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "cached"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(f"{name} must be at least 1, got {count}")
        for name in ("learning_rate", "scale"):
            number = getattr(self, name)
            if not (math.isfinite(number) and number > 0):
                raise InputError(f"{name} must be a finite number above 0, got {number:g}")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup must be a share of the steps below 1, got {self.warmup:g}")
        if self.n_dims_per_step is not None:
            self.sampler()

    def sampler(self) -> SizeSampler | None:
        """What draws the sizes of a step."""
        if self.n_dims_per_step is None:
            return None
        weights = self.sizes.weights
        return SizeSampler(self.sizes.nesting, self.n_dims_per_step, weights=weights)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        return self.learning_rate * (self.steps - step) / (self.steps - rising)


@dataclass
class Log:
    """Mean losses over stretches of steps; its `state` is plain values.

    Attributes:
        every: Steps of a stretch.
        rows: One for each stretch that is over: last step, learning rate, mean loss, and the mean
            loss of each size in the steps that drew it.
    """

    every: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    _sums: dict[str, float] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, step: int, rate: float, made: NestedLoss, *, last: bool) -> None:
        """Note a step, counted from 1."""
        losses = {"loss": float(made.loss.detach())}
        losses |= {str(dim): value for dim, value in made.by_dim().items()}
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if step % self.every == 0 or last:
            means = {name: self._sums[name] / self._counts[name] for name in self._sums}
            loss = means.pop("loss")
            self.rows.append({"step": step, "learning_rate": rate, "loss": loss, "per_size": means})
            self._sums, self._counts = {}, {}

    @property
    def state(self) -> dict[str, Any]:
        """What `resumed` goes on from."""
        return {"rows": self.rows, "sums": self._sums, "counts": self._counts}

    @classmethod
    def resumed(cls, every: int, state: Mapping[str, Any]) -> Log:
        """A log that goes on."""
        return cls(every, list(state["rows"]), dict(state["sums"]), dict(state["counts"]))


def load_model(
    model: str | Path, *, max_length: int | None = None, device: str | None = None
) -> Any:
    """A `SentenceTransformer` at its full width, ready to be trained.

    Args:
        model: A local folder, or a name on the hub.
        max_length: Tokens of a text; by default what the model says.
        device: Where it runs; by default the GPU of this process, if there is one.

    Raises:
        InputError: it cannot be loaded, for the library's reason.
    """
    from sentence_transformers import SentenceTransformer

    if device is None:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    try:
        loaded = SentenceTransformer(str(model), device=device)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot load the sentence-transformers model {str(model)!r}: {error}",
            hint="give a folder that holds modules.json, or a name on the hub",
        ) from error
    loaded.truncate_dim = None
    if max_length is not None:
        longest = min(loaded.max_seq_length or _LONGEST, _LONGEST)
        if not 1 <= max_length <= longest:
            raise InputError(
                f"max_length must be between 1 and {longest} tokens, which this model reads, got "
                f"{max_length}"
            )
        loaded.max_seq_length = max_length
    return loaded


def full_dim_of(model: Any) -> int:
    """Width of the model's vectors."""
    return int(encode(model, ["width"], Side.DOCUMENT).shape[1])


def weights_digest(model: nn.Module) -> str:
    """32 hexadecimal digits that tell other weights apart."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:DIGEST_LENGTH]


def encode(
    model: Any,
    texts: Sequence[str],
    side: Side,
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """`(n, full_dim)` vectors of texts, without dropout and without a gradient."""
    training = model.training
    model.eval()
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))  # alike texts pad little
    rows = []
    with torch.no_grad():
        for at in range(0, len(order), batch_size):
            some = [texts[row] for row in order[at : at + batch_size]]
            rows.append(model(_features(model, some, side))["sentence_embedding"].float().cpu())
            if progress is not None:
                progress(len(some))
    model.train(training)
    vectors = np.empty((len(texts), rows[0].shape[1]), np.float32)
    vectors[order] = torch.cat(rows).numpy()
    return vectors


@contextmanager
def processes() -> Iterator[int]:
    """Meet the other processes that `torchrun` started; gives the rank, which is 0 alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield dist.get_rank() if is_shared() else 0
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank()
        dist.barrier()  # gloo may hang where one rank leaves before the others are done
    finally:
        dist.destroy_process_group()


def batches(data: TrainingData, size: int, seed: int) -> Iterator[list[int]]:
    """Rows of batch after batch, for ever; epoch after epoch in another order.

    No two examples of a batch of pairs or triplets share a text, since each is a negative of the
    others; what does not fit waits for a later batch. A short rest of an epoch is left out.

    Raises:
        TooFewError: no batch can be filled.
    """
    texts = list(data.columns.values()) if data.kind in ("pairs", "triplets") else []
    for epoch in itertools.count():
        # the seed of an epoch must not be that of another seed's
        generator = torch.Generator().manual_seed(_mixed(seed, epoch, "order"))
        fresh = iter(torch.randperm(len(data), generator=generator).tolist())
        waiting: list[int] = []
        made = 0
        while True:
            source, waiting = iter(waiting), []
            batch: list[int] = []
            seen: set[str] = set()
            for row in itertools.chain(source, fresh):
                own = {column[row] for column in texts}
                if not seen.isdisjoint(own):
                    waiting.append(row)
                    continue
                batch.append(row)
                seen |= own
                if len(batch) == size:
                    break
            waiting += source
            if len(batch) < size:
                break
            made += 1
            yield batch
        if not made:
            raise TooFewError(
                f"a batch of {size} needs as many examples to train on"
                + (" that share no text" if texts else "")
                + f", got {len(batch)} of {len(data)}",
                hint="lower the batch size, or bring more examples",
                needed=size,
            )


def fit(
    model: Any,
    data: TrainingData,
    recipe: Recipe,
    *,
    checkpoints: Path | None = None,
    save_every: int | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_step: Callable[[int, dict[int, float]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a model in place.

    Pairs and triplets learn by InfoNCE with in-batch negatives, scored pairs by CoSENT, and
    labelled texts by a softmax over cosines with one proxy per class, which is thrown away.

    Args:
        model: A `SentenceTransformer`.
        data: The examples.
        recipe: How to train.
        checkpoints: Folder that checkpoints are written to.
        save_every: Steps between two of them; the last step is kept too.
        resume: Go on from the newest one, if there is any.
        settings: What else a run must agree in to go on, as plain values.
        on_step: Called after every step with its number, from 1, and the loss of each size drawn.

    Returns:
        Mean losses along the way, as `Log` has them.

    Raises:
        InputError: settings of a checkpoint or of other ranks that differ, or a batch that does not
            divide among the ranks.
        TooFewError: too few examples for a batch, or a batch of one.
        VectorError: NaN, infinity or zeros; `ids` says where the examples stand. No step is made
            with them, and the last checkpoint stays.
    """
    n_ranks = dist.get_world_size() if is_shared() else 1
    _check_batch(recipe.batch_size, n_ranks, data)
    agreed = {
        "data": data.digest(),
        "weights": weights_digest(model),
        "dims": list(recipe.sizes.dims),
        "dim_weights": list(recipe.sizes.weights),
        **{
            name: getattr(recipe, name)
            for name in (
                "steps", "batch_size", "learning_rate", "warmup", "seed", "scale", "cached",
                "n_dims_per_step",
            )
        },
        "max_length": None if math.isinf(model.max_seq_length or 0) else model.max_seq_length,
        "processes": n_ranks,
        **(settings or {}),
    }  # fmt: skip
    check_ranks_agree(**agreed)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        run = _Run(model, data, recipe)
        first, log = 0, Log(max(1, math.ceil(recipe.steps / _LOGGED)))
        newest = find_checkpoint(checkpoints) if checkpoints is not None and resume else None
        if newest is not None:
            first, tensors, state = read_checkpoint(newest, settings=agreed)
            restore(tensors, model, run.extra, run.optimizer)
            log = Log.resumed(log.every, state)
        check_ranks_agree(resumed_from_step=first)
        rows_of = itertools.islice(
            batches(data, recipe.batch_size, recipe.seed), first, recipe.steps
        )
        for step, rows in enumerate(rows_of, start=first):
            made = run.step(step, rows)
            done = step + 1
            log.add(done, recipe.rate(step), made, last=done == recipe.steps)
            due = save_every and (done % save_every == 0 or done == recipe.steps)
            if checkpoints is not None and due and run.rank == 0:
                save_checkpoint(
                    checkpoints,
                    done,
                    tensors_of(model, run.extra, run.optimizer),
                    settings=agreed,
                    log=log.state,
                )
            if on_step is not None:
                on_step(done, made.by_dim())
    model.eval()
    return log.rows


class _Encoder(nn.Module):
    """The model as a function of features, so that it can be shared among processes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Any]) -> Tensor:
        vectors: Tensor = self.model(dict(features))["sentence_embedding"]  # it writes into it
        return vectors


class _Run:
    """A model, its optimizer, and one step after the other."""

    def __init__(self, model: Any, data: TrainingData, recipe: Recipe) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self.rank = dist.get_rank() if is_shared() else 0
        self.n_own = recipe.batch_size // (dist.get_world_size() if is_shared() else 1)
        self.sampler = recipe.sampler()
        self.extra: list[tuple[str, nn.Parameter]] = []
        self.targets = torch.empty(0)
        if data.kind == "scored":
            self.targets = torch.tensor(data.marks, device=model.device)
        elif data.kind == "labelled":
            classes = sorted(set(data.marks))
            numbers = {name: number for number, name in enumerate(classes)}
            self.targets = torch.tensor([numbers[m] for m in data.marks], device=model.device)
            self.extra = [("proxies", _first_proxies(model, data, self.targets, len(classes)))]
        model.train()
        self.encoder: Any = _Encoder(model)
        if is_shared():
            _freeze_unused(self.encoder, _features(model, ["unused"], Side.DOCUMENT))
            with warnings.catch_warnings():
                # the option has another name from torch 2.13 on
                warnings.simplefilter("ignore", FutureWarning)
                self.encoder = nn.parallel.DistributedDataParallel(
                    self.encoder, broadcast_buffers=False
                )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.parameters += [parameter for _, parameter in self.extra]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=recipe.learning_rate, weight_decay=0)

    def step(self, step: int, rows: list[int]) -> NestedLoss:
        """Make one step with the examples of all processes."""
        recipe = self.recipe
        torch.manual_seed(_mixed(recipe.seed, step, f"dropout of rank {self.rank}"))
        sizes = recipe.sizes
        if self.sampler is not None:
            draw = torch.Generator().manual_seed(_mixed(recipe.seed, step, "sizes"))
            sizes = self.sampler.draw(draw)
        own = rows[self.rank * self.n_own : (self.rank + 1) * self.n_own]
        largest = recipe.sizes.dims[-1]

        def vectors_of(features: dict[str, Any]) -> Tensor:
            # what is beyond the largest size is no part of the loss
            made: Tensor = self.encoder(features)[:, :largest]
            return made

        def loss(*vectors: Tensor) -> NestedLoss:
            self._check(vectors, own)
            return self._loss(vectors, rows, own, sizes)

        self.optimizer.zero_grad(set_to_none=True)
        at_once = recipe.cached or len(own)
        columns = [
            [
                _features(self.model, [texts[row] for row in own[at : at + at_once]], _side(name))
                for at in range(0, len(own), at_once)
            ]
            for name, texts in self.data.columns.items()
        ]
        if recipe.cached:
            no_sync = self.encoder.no_sync if is_shared() else nullcontext
            made = cached_step(vectors_of, columns, loss, no_sync=no_sync)
        else:
            made = loss(*(vectors_of(features) for (features,) in columns))
            made.loss.backward()
        for _, parameter in self.extra:
            if is_shared() and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        length = clip_grad_norm_(self.parameters, _CLIP)
        if not length.isfinite():
            raise VectorError(
                f"step {step + 1}: the gradient is not finite; no step was made with "
                f"{_listed([self.data.where[row] for row in rows])}",
                hint="lower the learning rate, and go on from the last checkpoint",
                ids=[self.data.where[row] for row in rows],
            )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        self.optimizer.step()
        return made

    def _loss(
        self, vectors: Sequence[Tensor], rows: list[int], own: list[int], sizes: Sizes
    ) -> NestedLoss:
        scale = self.recipe.scale
        if self.data.kind == "labelled":
            proxies = self.extra[0][1][:, : vectors[0].shape[1]]
            return nested_cosine_softmax(vectors[0], proxies, self.targets[own], sizes, scale=scale)
        if self.data.kind == "scored":
            # a row of every rank's pairs, so that each compares all of them
            left, right = gather_with_grad(torch.cat(list(vectors), dim=1)).chunk(2, dim=1)
            return nested_pairs(_cosent_at(scale), left, right, self.targets[rows], sizes)
        anchors, *others = vectors
        candidates = torch.cat(others)
        targets = own_targets(len(candidates), device=anchors.device)[: len(anchors)]
        everyone = gather_with_grad(candidates)
        return nested_info_nce(anchors, everyone, sizes, targets=targets, scale=scale)

    def _check(self, vectors: Sequence[Tensor], own: list[int]) -> None:
        """Refuse NaN, infinity and prefixes of zeros on every rank, naming the examples."""
        smallest = self.recipe.sizes.dims[0]
        bad: list[tuple[str, int]] = []
        for name, part in zip(self.data.columns, vectors, strict=True):
            wrong = ~part.isfinite().all(1) | ~part[:, :smallest].any(1)
            bad += [(name, own[row]) for row in wrong.nonzero()[:, 0].tolist()]
        if is_shared():
            n_bad = torch.tensor([len(bad)], device=vectors[0].device)
            dist.all_reduce(n_bad)
            if int(n_bad) and not bad:
                raise VectorError("another rank has vectors with NaN, infinity or only zeros")
        if bad:
            places = [f"{self.data.where[row]}, field {name!r}" for name, row in bad]
            raise VectorError(
                f"the model gives NaN, infinity or, in the first {smallest} numbers, only zeros "
                f"for {_listed(places)}",
                hint="no step was made with these; lower the learning rate if all rows are named, "
                "and go on from the last checkpoint",
                ids=[self.data.where[row] for _, row in bad],
            )


def _cosent_at(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda scores, labels: cosent(scores, labels, scale)


def _check_batch(size: int, n_ranks: int, data: TrainingData) -> None:
    if size % n_ranks:
        raise InputError(
            f"a batch of {size} does not divide among {n_ranks} processes",
            hint=f"make it {(size // n_ranks + 1) * n_ranks}",
        )
    if data.kind in ("pairs", "scored") and size < 2:
        raise TooFewError(
            f"a batch of {data.kind} needs at least 2 to compare, got {size}: its loss is 0 and "
            "teaches nothing",
            hint="raise the batch size",
            needed=2,
        )


def _features(model: Any, texts: list[str], side: Side) -> dict[str, Any]:
    """What the model reads, with its own prompt for this side, where it has one."""
    made = model.preprocess(texts, prompt=model.prompts.get(side.value) or None)
    return {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in made.items()
    }


def _side(column: str) -> Side:
    return _SIDES.get(column, Side.DOCUMENT)


def _first_proxies(model: Any, data: TrainingData, targets: Tensor, n: int) -> nn.Parameter:
    """`(n, full_dim)` mean vectors of some texts of each class."""
    rows: list[int] = []
    classes = []
    for number in range(n):
        some = (targets == number).nonzero()[:_PER_CLASS, 0].tolist()
        rows += some
        classes += [number] * len(some)
    vectors = torch.from_numpy(
        encode(model, [data.columns["text"][r] for r in rows], Side.DOCUMENT)
    )
    vectors = nn.functional.normalize(vectors)
    sums = torch.zeros(n, vectors.shape[1]).index_add_(0, torch.tensor(classes), vectors)
    return nn.Parameter(nn.functional.normalize(sums).to(model.device))


def _freeze_unused(encoder: nn.Module, features: dict[str, Any]) -> None:
    """Leave out weights that no output depends on, which other processes would wait for."""
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    flows = torch.autograd.grad(encoder(features).sum(), parameters, allow_unused=True)
    for parameter, flow in zip(parameters, flows, strict=True):
        parameter.requires_grad_(flow is not None)


def _listed(places: Sequence[str]) -> str:
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return f"{'; '.join(places[:_SHOWN])}{more}"


def _mixed(seed: int, number: int, what: str) -> int:
    """A seed of its own for each use of each step."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number} {what}".encode()).digest()[:6], "big")
