"""Train small sizes in plain torch: a linear map of frozen vectors, learned from pairs.

python examples/train_plain.py        (needs the extras demo and train; takes ten seconds)

The pairs are words of WordNet and their definitions. 2,000 of the 25,000 are held out: the share of
their words whose definition is among the ten best of all is printed before and after, at every size
from one encoding. This model was trained nested, so that only its smallest sizes have much to gain.
"""

import torch

from matryo.core import Side
from matryo.encoders import encoder
from matryo.jobs import demo_data
from matryo.search import Level, View, scan
from matryo.training import nested_info_nce

DIMS = [16, 32, 64, 128, 256]
BATCH, EPOCHS, HELD_OUT = 512, 4, 2000

data, model = demo_data(), encoder("default")
words, _, definitions = zip(*(t.partition(": ") for t in data.documents.texts), strict=True)
asked = torch.from_numpy(model.encode(list(words), side=Side.QUERY))
answers = torch.from_numpy(model.encode(list(definitions), side=Side.DOCUMENT))
torch.manual_seed(0)
order = torch.randperm(len(asked))
train, test = order[HELD_OUT:], order[:HELD_OUT]


def found(learned: torch.nn.Linear) -> dict[int, float]:
    """Share of held-out words whose definition is among the ten best, by size."""
    with torch.no_grad():
        queries, corpus = learned(asked[test]).numpy(), learned(answers).numpy()
    levels = [Level(dim) for dim in DIMS]
    best, own = scan(queries, corpus, {"cut": View(levels)}, k=10), test[:, None].numpy()
    return {x.dim: round(float((best["cut", x].rows == own).any(1).mean()), 3) for x in levels}


learned = torch.nn.Linear(DIMS[-1], DIMS[-1], bias=False)
torch.nn.init.eye_(learned.weight)
print("before:", found(learned))
optimizer = torch.optim.Adam(learned.parameters(), lr=2e-3)
for _ in range(EPOCHS):
    for rows in train[torch.randperm(len(train))].split(BATCH):
        pair = learned(asked[rows]), learned(answers[rows])
        made = nested_info_nce(*pair, DIMS, scale=10.0)
        optimizer.zero_grad()
        made.loss.backward()
        optimizer.step()
    print("loss by size:", {dim: round(loss, 2) for dim, loss in made.by_dim().items()})
print("after: ", found(learned))
