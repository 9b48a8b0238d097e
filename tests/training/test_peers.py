"""sentence-transformers' MatryoshkaLoss, where it computes the same."""

from __future__ import annotations

import pytest
import torch
from tests.training.plain import leaf
from torch import nn

from matryo.training import cosent, nested_info_nce, nested_pairs

pytestmark = [pytest.mark.torch, pytest.mark.slow]

DIMS = [8, 16, 48]


class HandsOver(nn.Module):
    """A model whose embeddings are the rows it is given, through one layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 48, dtype=torch.float64)

    def forward(self, features):
        return {**features, "sentence_embedding": self.layer(features["rows"])}

    def get_sentence_embedding_dimension(self):
        return 48

    get_embedding_dimension = get_sentence_embedding_dimension

    def save(self, *_args, **_options):
        """Nothing to keep."""


@pytest.fixture(scope="module")
def peers():
    sentence_transformers = pytest.importorskip("sentence_transformers")
    torch.manual_seed(0)
    model = sentence_transformers.SentenceTransformer(modules=[HandsOver()], device="cpu")
    from sentence_transformers.sentence_transformer import losses

    return model, losses


@pytest.mark.parametrize("n_columns", [2, 3], ids=["pairs", "with hard negatives"])
def test_info_nce_has_its_loss_and_gradients(peers, n_columns):
    model, losses = peers
    weights = [0.5, 1.0, 2.0]
    theirs = losses.MatryoshkaLoss(
        model, losses.MultipleNegativesRankingLoss(model), DIMS[::-1], weights[::-1]
    )
    columns = [leaf(16, 48, seed=seed).detach() for seed in range(n_columns)]

    model.zero_grad()
    wanted = theirs([{"rows": column} for column in columns], None)
    wanted.backward()
    wanted_slope = model[0].layer.weight.grad.clone()

    model.zero_grad()
    vectors = [model({"rows": column})["sentence_embedding"] for column in columns]
    made = nested_info_nce(vectors[0], torch.cat(vectors[1:]), DIMS, weights=weights)
    made.loss.backward()

    assert made.loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    torch.testing.assert_close(model[0].layer.weight.grad, wanted_slope, rtol=1e-10, atol=1e-12)


def test_cosent_has_its_loss_and_gradients(peers):
    model, losses = peers
    theirs = losses.MatryoshkaLoss(model, losses.CoSENTLoss(model), DIMS[::-1])
    left, right = (leaf(16, 48, seed=seed).detach() for seed in range(2))
    labels = torch.linspace(0, 1, 16, dtype=torch.float64).round(decimals=1)

    model.zero_grad()
    wanted = theirs([{"rows": left}, {"rows": right}], labels)
    wanted.backward()
    wanted_slope = model[0].layer.weight.grad.clone()

    model.zero_grad()
    ours = [model({"rows": column})["sentence_embedding"] for column in (left, right)]
    made = nested_pairs(cosent, *ours, labels, DIMS)
    made.loss.backward()

    assert made.loss.item() == pytest.approx(wanted.item(), rel=1e-10)
    torch.testing.assert_close(model[0].layer.weight.grad, wanted_slope, rtol=1e-8, atol=1e-11)
