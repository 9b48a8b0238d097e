"""Encoders that nest: the first hidden units of every feed-forward layer are a cheaper encoder.

In the manner of MatFormer (Devvrit and others 2023): of the `intermediate_size` hidden units in
every feed-forward layer, the smaller model uses the first ones. All widths share their weights and
are trained together, one call of the encoder for each:

    small = at_ffn_width(model, 384)
    loss(model(queries), model(documents)).backward()
    loss(small(queries), model(documents)).backward()   # one space, queries encoded cheaply

`reorder_ffn` puts the units that matter first before training starts, and `extract` saves a smaller
model, with fewer layers too, that needs nothing of this afterwards. A model is any module with one
encoder of BERT's build inside: that of transformers itself, or a SentenceTransformer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from matryo.core import InputError, UnsupportedError, replacing_folder


def at_ffn_width(model: nn.Module, ffn_width: int) -> Callable[..., Any]:
    """A function that calls the model with the first hidden units of every feed-forward layer.

    The model itself is not changed. Gradients reach the weights that were used; all others get
    zeros.

    Args:
        model: A BERT-type encoder, or a module around one.
        ffn_width: How many hidden units, from 1 to the encoder's `intermediate_size`.

    Returns:
        Called with what `model` is called with.

    Raises:
        UnsupportedError: no BERT-type encoder is inside, or several.
        InputError: a width that does not fit.
    """
    prefix, encoder = _find(model)
    _check_count("ffn_width", ffn_width, _ffn_width(encoder), "hidden units of this encoder")
    names = [
        (f"{prefix}{name}", place) for name, place in _sliced_names(encoder, ffn_width).items()
    ]

    def call(*inputs: Any, **named: Any) -> Any:
        parts = {name: model.get_parameter(name)[place] for name, place in names}
        return torch.func.functional_call(model, parts, inputs, named)

    return call


def reorder_ffn(model: nn.Module, run: Callable[[], object] | None = None) -> Tensor:
    """Sort the hidden units of every feed-forward layer, those that matter most first.

    What the model computes stays the same, up to the order in which numbers are added. Weights are
    moved in place: do it before an optimizer keeps anything about them.

    Args:
        model: A BERT-type encoder, or a module around one.
        run: Runs the model over sample texts, `lambda: model.encode(texts)` for instance. A unit
            then counts by the length of what it adds to a token on average (its mean absolute
            activation times the norm of its outgoing weights, padding included). Without it, by the
            product of the norms of its incoming and outgoing weights.

    Returns:
        `(layers, intermediate_size)` importances in the new order.

    Raises:
        UnsupportedError: no BERT-type encoder is inside, or several.
        InputError: `run` did not reach the encoder.
    """
    _, encoder = _find(model)
    layers = _layers(encoder)
    if run is None:
        incoming = [layer.intermediate.dense.weight.detach().norm(dim=1) for layer in layers]
    else:
        incoming = _mean_activations(layers, run)
    importances = []
    with torch.no_grad():
        for layer, size in zip(layers, incoming, strict=True):
            into, out = layer.intermediate.dense, layer.output.dense
            importance, order = (size * out.weight.norm(dim=0)).sort(descending=True, stable=True)
            into.weight.copy_(into.weight[order])
            into.bias.copy_(into.bias[order])
            out.weight.copy_(out.weight[:, order])
            importances.append(importance)
    return torch.stack(importances)


def smaller_encoder(
    encoder: nn.Module, *, layers: int | None = None, ffn_width: int | None = None
) -> nn.Module:
    """A new encoder of the same class with the first layers and the first hidden units.

    Args:
        encoder: Of transformers, of BERT's build.
        layers: How many layers to keep; by default all.
        ffn_width: How many hidden units of each; by default all.

    Returns:
        An ordinary encoder with its own weights and a configuration that says what it is.

    Raises:
        UnsupportedError: not such an encoder.
        InputError: more layers or units than there are, or none.
    """
    prefix, found = _find(encoder)
    if prefix:
        raise UnsupportedError(
            f"expected an encoder of transformers itself, got a module around one, "
            f"{type(encoder).__name__}",
            hint=f"give what is inside it: {prefix.rstrip('.')}; extract takes the whole model",
        )
    n_layers, width = len(_layers(found)), _ffn_width(found)
    layers = n_layers if layers is None else layers
    ffn_width = width if ffn_width is None else ffn_width
    _check_count("layers", layers, n_layers, "layers of this encoder")
    _check_count("ffn_width", ffn_width, width, "hidden units of this encoder")
    config = copy.deepcopy(found.config)
    config.num_hidden_layers, config.intermediate_size = layers, ffn_width
    with torch.random.fork_rng():  # what it draws for weights that are replaced at once
        made: nn.Module = type(found)(config)
    places = _sliced_names(found, ffn_width)
    weights = found.state_dict()
    kept = {
        name: weights[name][places[name]] if name in places else weights[name]
        for name in made.state_dict()
    }
    like = next(found.parameters())
    made.to(device=like.device, dtype=like.dtype).load_state_dict(kept)
    return made.train(found.training)


def extract(
    model: Any,
    folder: str | Path,
    *,
    layers: int | None = None,
    ffn_width: int | None = None,
) -> None:
    """Save a smaller model as a folder that sentence-transformers loads like any other.

    Its vectors are those of `at_ffn_width`, or of the hidden states after that many layers, pooled
    as the model pools.

    Args:
        model: A `SentenceTransformer` with a BERT-type encoder; it is left as it is.
        folder: A new one; its parent must exist.
        layers: How many layers to keep; by default all.
        ffn_width: How many hidden units of each feed-forward layer; by default all.

    Raises:
        UnsupportedError: not a `SentenceTransformer`, or none with such an encoder.
        InputError: the folder exists already; more layers or units than there are, or none.
    """
    if not hasattr(model, "save_pretrained") or not isinstance(model, nn.Sequential):
        raise UnsupportedError(
            f"expected a SentenceTransformer, got {type(model).__name__}",
            hint="for an encoder of transformers itself call smaller_encoder, then save_pretrained",
        )
    prefix, encoder = _find(model)
    small = smaller_encoder(encoder, layers=layers, ffn_width=ffn_width)
    # a copy of all modules but the weights of the encoder, which the smaller ones replace
    whole: Any = copy.deepcopy(model, {id(encoder): small})
    if whole.get_submodule(prefix.rstrip(".")) is not small:
        raise UnsupportedError(f"{type(model).__name__}: its encoder cannot be replaced")
    with replacing_folder(folder, overwrite=False) as temporary:
        whole.save_pretrained(str(temporary), create_model_card=False)


def _find(model: nn.Module) -> tuple[str, Any]:
    """The one BERT-type encoder in a model, and what stands before its names (`"0.model."`)."""
    found = {id(module): (name, module) for name, module in model.named_modules() if _fits(module)}
    if len(found) != 1:
        raise UnsupportedError(
            "expected a model with one encoder of BERT's build (BERT, RoBERTa, XLM-RoBERTa, "
            "ELECTRA or MPNet of transformers), got "
            f"{type(model).__name__} with {len(found) or 'none'}",
            hint="its layers must be encoder.layer[i] with intermediate.dense and output.dense",
        )
    ((name, module),) = found.values()
    return f"{name}." if name else "", module


def _fits(module: nn.Module) -> bool:
    layers = getattr(getattr(module, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers) or not hasattr(module, "config"):
        return False
    width = getattr(module.config, "intermediate_size", None)
    return all(_ffn_widths(layer) == (width, width) for layer in layers)


def _ffn_widths(layer: nn.Module) -> tuple[int, int] | None:
    """Hidden units by the weights that lead to them, and by those that lead away."""
    into = getattr(getattr(layer, "intermediate", None), "dense", None)
    out = getattr(getattr(layer, "output", None), "dense", None)
    if not isinstance(into, nn.Linear) or not isinstance(out, nn.Linear):
        return None
    return into.out_features, out.in_features


def _layers(encoder: Any) -> list[Any]:
    return list(encoder.encoder.layer)


def _ffn_width(encoder: Any) -> int:
    return int(encoder.config.intermediate_size)


def _sliced_names(encoder: Any, ffn_width: int) -> dict[str, tuple[slice, ...]]:
    """Names of the parameters of hidden units, with where the first units are in them."""
    units, everything = slice(0, ffn_width), slice(None)
    return {
        f"encoder.layer.{at}.{name}": place
        for at in range(len(_layers(encoder)))
        for name, place in (
            ("intermediate.dense.weight", (units,)),
            ("intermediate.dense.bias", (units,)),
            ("output.dense.weight", (everything, units)),
        )
    }


def _mean_activations(layers: list[Any], run: Callable[[], object]) -> list[Tensor]:
    """`(intermediate_size,)` mean absolute activation of the units of each layer during `run`."""
    sums: list[Tensor | int] = [0] * len(layers)
    tokens = [0] * len(layers)

    def watch(at: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            activations = inputs[0].detach().flatten(0, -2)
            sums[at] = sums[at] + activations.abs().sum(0, dtype=torch.float64)
            tokens[at] += len(activations)

        return add

    hooks = [
        layer.output.dense.register_forward_pre_hook(watch(at)) for at, layer in enumerate(layers)
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    if not all(tokens):
        raise InputError(
            "run must call this model on sample texts, got no tokens at "
            f"{tokens.count(0)} of {len(layers)} layers",
            hint="for instance run=lambda: model.encode(texts)",
        )
    return [
        (cast(Tensor, total) / n).to(layer.output.dense.weight.dtype)
        for total, n, layer in zip(sums, tokens, layers, strict=True)
    ]


def _check_count(what: str, count: int, most: int, of: str) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= most:
        raise InputError(
            f"{what} must be a whole number between 1 and {most} (the {of}), got {count!r}",
            most=most,
        )
