"""The state of a training run on disk, without pickle.

A checkpoint is a folder `step-00000100` with `state.safetensors` (weights, buffers and the moments
of the optimizer, by name) and `state.json` (step, settings, what was logged, and a digest of the
tensors). It is written whole before the one before is removed, so that a kill at any moment leaves
one that can be used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matryo.core import FormatError, InputError, replacing_folder

_FORMAT = 1


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    *,
    settings: Mapping[str, Any],
    log: Mapping[str, Any],
) -> None:
    """Write the state after `step` steps, then remove older ones.

    Args:
        folder: Of all checkpoints of the run; it is made where there is none.
        step: Steps that were made.
        tensors: By name; they may share memory with the model.
        settings: What a run must agree in to go on from here, as plain values.
        log: What was logged so far, as plain values.
    """
    from safetensors.torch import save

    folder.mkdir(exist_ok=True)
    target = folder / f"step-{step:08d}"
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    state = {
        "format": _FORMAT, "step": step, "sha256": _sha256(data), "settings": dict(settings),
        "log": dict(log),
    }  # fmt: skip
    with replacing_folder(target, overwrite=True) as temporary:
        (temporary / "state.safetensors").write_bytes(data)
        (temporary / "state.json").write_text(json.dumps(state, indent=1), "utf-8")
    for other in folder.iterdir():
        if other != target and other.name.lstrip(".").startswith("step-"):
            shutil.rmtree(other)


def find_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return max(folder.glob("step-*"), default=None)


def read_checkpoint(
    path: Path, *, settings: Mapping[str, Any]
) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """Step, tensors and log of a checkpoint.

    Args:
        path: Its folder.
        settings: Those of the run that wants to go on.

    Raises:
        InputError: it was written with other settings; `differing` names them.
        FormatError: it is damaged, or of another format.
    """
    from safetensors.torch import load

    try:
        state = json.loads((path / "state.json").read_text("utf-8"))
        data = (path / "state.safetensors").read_bytes()
        known, digest = state["format"] == _FORMAT, state["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: expected a checkpoint, got: {error!r}", path=path) from error
    if not known or _sha256(data) != digest:
        raise FormatError(
            f"{path}: expected a whole checkpoint of format {_FORMAT}, got "
            + (f"format {state['format']}" if not known else "changed bytes"),
            hint="remove the folder of checkpoints to start from the beginning",
            path=path,
        )
    mine = json.loads(json.dumps(dict(settings)))
    theirs = state["settings"]
    differing = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
    if differing:
        told = "; ".join(f"{key}: {theirs.get(key)!r}, now {mine.get(key)!r}" for key in differing)
        raise InputError(
            f"{path} was written with other settings: {told}",
            hint="go on with the same ones, or remove the folder to start from the beginning",
            differing=differing,
        )
    return int(state["step"]), load(data), state["log"]


def tensors_of(
    model: nn.Module, extra: Iterable[tuple[str, nn.Parameter]], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Everything that a step changes, by name.

    Args:
        model: Its parameters and buffers.
        extra: Parameters beside it.
        optimizer: Its moments.
    """
    tensors = _in_place(model, extra)
    for name, parameter in _parameters(model, extra).items():
        for what, part in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{what}.{name}"] = part
    return tensors


@torch.no_grad()
def restore(
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    extra: Iterable[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put what `tensors_of` gave back in place."""
    for name, place in _in_place(model, extra).items():
        place.copy_(tensors[name])
    parameters = _parameters(model, extra)
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, what, parameter = name.split(".", 2)
            of = parameters[parameter]
            # AdamW counts its steps on the CPU
            device = "cpu" if what == "step" else of.device
            optimizer.state[of][what] = tensor.to(device).clone()


def _in_place(model: nn.Module, extra: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Weights, and buffers that a saved model would have."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _parameters(model, extra).items():
        tensors[f"parameter.{name}"] = parameter
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in saved:
            tensors[f"buffer.{name}"] = buffer
    return tensors


def _parameters(
    model: nn.Module, extra: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, nn.Parameter]:
    return {**dict(model.named_parameters()), **{f"extra.{name}": part for name, part in extra}}


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
