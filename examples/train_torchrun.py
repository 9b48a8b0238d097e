"""Train small sizes on several processes, each of which chooses among the candidates of all.

torchrun --nproc-per-node 2 examples/train_torchrun.py     (extras demo and train; half a minute)

As train_plain.py, a linear map of frozen vectors; a model of texts goes in its place. Whole vectors
are gathered, once for all sizes, and the gradient is that of one process with the joined batch.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize

from matryo.core import Side
from matryo.encoders import encoder
from matryo.jobs import demo_data
from matryo.training import check_ranks_agree, gather_with_grad, nested_info_nce, own_targets

DIMS = [16, 32, 64, 128, 256]
BATCH, EPOCHS, HELD_OUT, PAIRS = 512, 4, 1000, 10_000

dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
model, texts = encoder("default"), demo_data().documents.texts[:PAIRS]
words, _, definitions = zip(*(text.partition(": ") for text in texts), strict=True)
asked = torch.from_numpy(model.encode(list(words), side=Side.QUERY))
answers = torch.from_numpy(model.encode(list(definitions), side=Side.DOCUMENT))
torch.manual_seed(0)  # the same order of rows on every rank
order = torch.randperm(PAIRS)
train, test = order[HELD_OUT:], order[:HELD_OUT]
check_ranks_agree(dims=DIMS, width=asked.shape[1], batch=BATCH, order=int(order[0]))


def found(learned: nn.Module) -> dict[int, float]:
    """Share of held-out words whose definition is the nearest of all held-out ones, by size."""
    with torch.no_grad():
        left, right = learned(asked[test]), learned(answers[test])
    cosines = {dim: normalize(left[:, :dim]) @ normalize(right[:, :dim]).T for dim in DIMS}
    own = torch.arange(HELD_OUT)
    return {dim: round(float((c.argmax(1) == own).float().mean()), 3) for dim, c in cosines.items()}


learned = nn.Linear(DIMS[-1], DIMS[-1], bias=False)
nn.init.eye_(learned.weight)
shared, before = nn.parallel.DistributedDataParallel(learned), found(learned)
optimizer = torch.optim.Adam(shared.parameters(), lr=2e-3)
for _ in range(EPOCHS):
    for rows in train[torch.randperm(len(train))].split(BATCH):
        mine = rows[rank::ranks][: len(rows) // ranks]
        queries, candidates = shared(torch.stack([asked[mine], answers[mine]])).unbind()
        everyone, targets = gather_with_grad(candidates), own_targets(len(candidates))
        made = nested_info_nce(queries, everyone, DIMS, targets=targets, scale=10.0)
        optimizer.zero_grad()
        made.loss.backward()
        optimizer.step()
if rank == 0:
    print(f"before: {before}\nafter:  {found(learned)}")
dist.destroy_process_group()
