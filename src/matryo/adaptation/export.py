"""A map in the terms of others: sentence-transformers, ONNX, plain arrays.

Rotations, orders and adaptors, one or several in a chain, can be written; all of them are products,
sums and at most an activation. Whatever reads them needs neither matryo nor, but for the first,
torch. Weights become float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.adaptation.saved import NestedMap
from matryo.core import (
    DimError,
    MissingExtraError,
    Side,
    Transform,
    UnsupportedError,
    replacing_folder,
    write_atomically,
)
from matryo.transforms import Adaptor, Chain, Reorder, Rotation

Weights = Mapping[str, NDArray[np.float32]]

_MODULES = "sentence_transformers.models"
_IDENTITY = "torch.nn.modules.linear.Identity"
_GELU = "torch.nn.modules.activation.GELU"
_OPSET, _IR = 17, 8


def to_sentence_transformers(
    nested_map: NestedMap,
    model: Any,
    folder: str | Path,
    *,
    side: Side | str | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a model of sentence-transformers with the map behind it, as modules of its own kind.

    Appended are the pre-step of the map's space, where it has one; a `Dense` for each linear map
    and two for a network; and `Normalize` where the space is scored by cosine. A network is written
    with two more units for each number, since x = gelu(x) - gelu(-x) carries x past the activation.
    Where the model has a transformer, its configuration lists the sizes that the map was fitted
    for, in place of its own. The model is left as it is, and its prompts are kept.

    Args:
        nested_map: The map.
        model: A `SentenceTransformer` that makes the vectors the map expects, before the pre-step.
        folder: Where to; plain sentence-transformers loads it.
        side: Whose map; needed where the sides have maps of their own, which take a folder each.
        overwrite: Replace a folder that is there already.

    Returns:
        The folder.

    Raises:
        UnsupportedError: two maps and no side, or a map that no module can do.
        DimError: the model makes vectors of another width.
        InputError: the folder exists already.
    """
    from matryo.training.sentence_transformers import full_width

    if side is None and not nested_map.is_symmetric:
        raise UnsupportedError(
            "a model of sentence-transformers has one map for both sides, got a map for each",
            hint='write a folder for each: side="query" and side="document"',
        )
    steps = _steps(nested_map.of(side or Side.DOCUMENT))
    expects, makes = nested_map.expects, nested_map.makes
    width = full_width(model)
    if width not in (None, expects.full_dim):
        raise DimError(
            f"this map takes vectors of {expects.full_dim} numbers, the model makes {width}",
            dim=width,
            full_dim=expects.full_dim,
        )
    spec = expects.query if side == Side.QUERY else expects.document
    modules = [*_pre_step(spec.pre_step, expects.full_dim)]
    modules += [module for step in steps for module in _dense(step)]
    if makes.metric == "cosine":
        modules.append(("Normalize", {}, {}))
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        model.save(str(temporary))
        listed = json.loads((temporary / "modules.json").read_text("utf-8"))
        for kind, config, weights in modules:
            listed.append(_write_module(temporary, len(listed), kind, config, weights))
        _write_json(temporary / "modules.json", listed)
        _add_sizes(temporary / listed[0]["path"] / "config.json", nested_map.dims)
    return Path(folder)


def to_onnx(nested_map: NestedMap, path: str | Path, *, side: Side | str | None = None) -> Path:
    """Write the map as an ONNX model (opset 17): `vectors` `(batch, dim)` in, `mapped` out.

    It does what `NestedMap.apply` does: cutting and scaling to length 1 are left to the reader. The
    metadata hold the fingerprints of both spaces.

    Args:
        nested_map: The map.
        path: The `.onnx` file; an older one is replaced when all is well.
        side: Whose map; needed where the sides have maps of their own, which take a file each.

    Returns:
        The path.

    Raises:
        UnsupportedError: two maps and no side, or a map that cannot be written.
        MissingExtraError: the package onnx is not installed.
        InputError: the folder of `path` does not exist.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError:
        raise MissingExtraError.of("writing ONNX", "onnx", "onnx") from None

    if side is None and not nested_map.is_symmetric:
        raise UnsupportedError(
            "an ONNX file holds one map, got one for each side",
            hint='write a file for each: side="query" and side="document"',
        )
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(value: NDArray[np.float32]) -> str:
        constants.append(numpy_helper.from_array(value, f"c{len(constants)}"))
        return str(constants[-1].name)

    def node(kind: str, *inputs: str) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"t{len(nodes)}"]))
        return f"t{len(nodes) - 1}"

    at = "vectors"
    for step in _steps(nested_map.of(side or Side.DOCUMENT)):
        if "matrix" in step:
            at = node("MatMul", at, constant(step["matrix"]))
            if "bias" in step:
                at = node("Add", at, constant(step["bias"]))
            continue
        inner = node("Add", node("MatMul", at, constant(step["w1"])), constant(step["b1"]))
        share = node("Erf", node("Mul", inner, constant(np.array(np.sqrt(0.5), np.float32))))
        share = node("Add", share, constant(np.array(1, np.float32)))
        active = node("Mul", node("Mul", share, inner), constant(np.array(0.5, np.float32)))
        moved = node("Add", node("MatMul", active, constant(step["w2"])), constant(step["b2"]))
        at = node("Add", at, moved)
    nodes[-1].output[0] = "mapped"
    shapes = {"vectors": nested_map.expects.full_dim, "mapped": nested_map.makes.full_dim}
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", dim])
        for name, dim in shapes.items()
    ]
    made = helper.make_model(
        helper.make_graph(nodes, "nested_map", ends[:1], ends[1:], constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="matryo",
    )
    helper.set_model_props(
        made,
        {
            "matryo.expects": nested_map.expects.fingerprint,
            "matryo.makes": nested_map.makes.fingerprint,
            "matryo.dims": ",".join(map(str, nested_map.dims)),
        },
    )
    checker.check_model(made)
    write_atomically(path, made.SerializeToString())
    return Path(path)


def to_numpy(nested_map: NestedMap, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write the arrays as `.npy`, and a README of what to multiply by what.

    Args:
        nested_map: The map.
        folder: Where to.
        overwrite: Replace a folder that is there already.

    Returns:
        The folder.

    Raises:
        UnsupportedError: a map that is no product or network.
        InputError: the folder exists already.
    """
    sides = {"both": nested_map.document}
    if not nested_map.is_symmetric:
        sides = {side.value: nested_map.of(side) for side in Side}
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        recipes = []
        for name, transform in sides.items():
            lines = []
            for place, step in enumerate(_steps(transform), start=1):
                files = {key: f"{name}-{place}-{key}.npy" for key in step}
                for key, array in step.items():
                    np.save(temporary / files[key], array, allow_pickle=False)
                lines.append(f"    x = {_formula(files)}")
            recipes.append((name, lines))
        (temporary / "README.md").write_text(_readme(nested_map, recipes), "utf-8")
    return Path(folder)


def _steps(transform: Transform) -> list[Weights]:
    """The arrays of each map in turn, by the names that `Adaptor` has for them."""
    if isinstance(transform, Chain):
        return [step for part in transform.steps_ for step in _steps(part)]
    if isinstance(transform, Rotation):
        return [{"matrix": transform.rotation_.astype(np.float32)}]
    if isinstance(transform, Reorder):
        return [{"matrix": np.eye(len(transform.order_), dtype=np.float32)[:, transform.order_]}]
    if isinstance(transform, Adaptor):
        return [{name: w.astype(np.float32) for name, w in transform.weights_.items()}]
    raise UnsupportedError(
        f"rotations, orders and adaptors can be written for others, got {transform!r}",
        hint="apply it with matryo, or leave this step to what reads the vectors",
    )


def _dense(step: Weights) -> list[tuple[str, dict[str, Any], Weights]]:
    """Modules `Dense` that do what a map does; each keeps its matrix transposed."""
    if "matrix" in step:
        return [_layer(step["matrix"], step.get("bias"), _IDENTITY)]
    width = step["w1"].shape[0]
    one, none = np.eye(width, dtype=np.float32), np.zeros(2 * width, np.float32)
    return [
        _layer(np.hstack([step["w1"], one, -one]), np.concatenate([step["b1"], none]), _GELU),
        _layer(np.vstack([step["w2"], one, -one]), step["b2"], _IDENTITY),
    ]


def _layer(
    matrix: NDArray[np.float32], bias: NDArray[np.float32] | None, activation: str
) -> tuple[str, dict[str, Any], Weights]:
    config = {
        "in_features": matrix.shape[0],
        "out_features": matrix.shape[1],
        "bias": bias is not None,
        "activation_function": activation,
    }
    weights = {"linear.weight": np.ascontiguousarray(matrix.T)}
    return "Dense", config, weights if bias is None else {**weights, "linear.bias": bias}


def _pre_step(name: str | None, width: int) -> list[tuple[str, dict[str, Any], Weights]]:
    if name is None:
        return []
    if name != "layer_norm":
        raise UnsupportedError(
            f"the pre-step layer_norm has a module in sentence-transformers, got {name!r}"
        )
    weights = {"norm.weight": np.ones(width, np.float32), "norm.bias": np.zeros(width, np.float32)}
    return [("LayerNorm", {"dimension": width}, weights)]


def _write_module(
    folder: Path, place: int, kind: str, config: Mapping[str, Any], weights: Weights
) -> dict[str, Any]:
    """Write a module as sentence-transformers would, and give its line of modules.json."""
    from safetensors.numpy import save

    path = folder / f"{place}_{kind}"
    path.mkdir()
    if config:
        _write_json(path / "config.json", config)
        (path / "model.safetensors").write_bytes(save(dict(weights)))
    return {"idx": place, "name": str(place), "path": path.name, "type": f"{_MODULES}.{kind}"}


def _add_sizes(config: Path, dims: tuple[int, ...]) -> None:
    told = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    if "model_type" in told:
        _write_json(config, told | {"is_matryoshka": True, "matryoshka_dimensions": list(dims)})


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _formula(files: Mapping[str, str]) -> str:
    if "matrix" in files:
        return f"x @ {files['matrix']}" + (f" + {files['bias']}" if "bias" in files else "")
    return (
        f"x + gelu(x @ {files['w1']} + {files['b1']}) @ {files['w2']} + {files['b2']}"
        "    where gelu(h) = h * (1 + erf(h / sqrt(2))) / 2"
    )


def _readme(nested_map: NestedMap, recipes: list[tuple[str, list[str]]]) -> str:
    expects, makes = nested_map.expects, nested_map.makes
    steps = {spec.pre_step for spec in (expects.query, expects.document)} - {None}
    after = f", after the step {' or '.join(sorted(map(str, steps)))}" if steps else ""
    parts = [
        "# A map that makes vectors truncatable",
        f"For whole vectors of {expects.describe()}{after}: float32, a row each.",
        f"Space that goes in {expects.fingerprint}, space that comes out {makes.fingerprint}.",
    ]
    for name, lines in recipes:
        parts += [f"A vector x of {'both sides' if name == 'both' else f'the {name} side'} becomes"]
        parts += ["\n".join(lines)]
    scaled = "and divide them by their length" if makes.metric == "cosine" else "as they are"
    sizes = ", ".join(map(str, nested_map.dims))
    parts.append(
        f"Then keep its first numbers, for one of the sizes {sizes}, {scaled}. "
        f"Sizes below {nested_map.dims[0]} were not fitted."
    )
    return "\n\n".join(parts) + "\n"
