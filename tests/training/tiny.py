"""A BERT of two layers with random weights, and synthetic examples that it can learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

WORDS = [f"w{i}" for i in range(120)]


def make_model(folder, *, dropout=0.1):
    """Save the model as sentence-transformers would, and give its folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = Path(folder)
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words), "utf-8")
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    made = SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(16)])
    made.save(str(folder / "model"))
    return folder / "model"


def make_records(kind, n=200, seed=0):
    """Examples of a kind: texts belong together if they share most of their words."""
    rng = np.random.default_rng(seed)

    def text(words):
        return " ".join(WORDS[i] for i in words)

    records = []
    for _ in range(n):
        words, others = rng.choice(120, 6, replace=False), rng.choice(120, 6, replace=False)
        near = [*rng.permutation(words)[:4], *others[:2]]
        shared = int(rng.integers(0, 6))  # two equal texts would have no gradient but rounding
        records.append(
            {
                "pairs": {"anchor": text(words), "positive": text(near)},
                "triplets": {
                    "anchor": text(words), "positive": text(near), "negative": text(others)
                },
                "scored": {
                    "sentence1": text(words), "score": shared,
                    "sentence2": text([*words[:shared], *others[shared:]]),
                },
                "labelled": {
                    "text": text([*(words % 30 + 30 * (shared % 4))]), "label": f"c{shared % 4}"
                },
            }[kind]
        )  # fmt: skip
    return records


def write_records(path, records):
    """Write them as .jsonl, and give the path."""
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return Path(path)
