"""The drop-in for sentence-transformers' MatryoshkaLoss: as theirs where theirs is right."""

from __future__ import annotations

import copy
import math
import warnings
from functools import partial

import pytest
import torch
from tests.training.plain import leaf
from tests.training.two_ranks import seen_by_two_ranks
from torch import nn
from torch.nn import functional

from matryo.core import DimError, InputError, TooFewError, UnsupportedError, VectorError
from matryo.training.sentence_transformers import MatryoshkaLoss

pytestmark = [pytest.mark.torch, pytest.mark.slow]

DIMS = [48, 8, 16]
WEIGHTS = [2.0, 0.5, 1.0]
N = 16


class HandsOver(nn.Module):
    """A model whose embeddings are the rows it is given, through one layer and a dropout."""

    def __init__(self, dtype=torch.float64, dropout=0.0):
        super().__init__()
        self.layer = nn.Linear(48, 48, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.calls = 0

    def forward(self, features):
        self.calls += 1
        vectors = self.dropout(self.layer(features["rows"]))
        return {**features, "sentence_embedding": vectors}

    def get_embedding_dimension(self):
        return 48

    def save(self, *_args, **_options):
        """Nothing to keep."""


def made_of(*modules):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(modules=list(modules), device="cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return made_of(HandsOver()).train()


@pytest.fixture(scope="module")
def losses():
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import losses

    return losses


def columns(n=2, dtype=torch.float64):
    return [{"rows": leaf(N, 48, seed=seed, dtype=dtype).detach()} for seed in range(n)]


def graded():
    return torch.linspace(0, 1, N).round(decimals=1).double()


def binary():
    return torch.tensor([0, 1, 1, 0] * (N // 4))


def run(model, loss, batch, labels=None):
    """Value of a loss and the gradient of the layer, the loss having passed on 1.7 of it."""
    model.zero_grad()
    value = loss(batch, labels)
    value = sum(value.values()) if isinstance(value, dict) else value
    (value * 1.7).backward()
    return value.detach(), model[0].layer.weight.grad.clone()


def assert_same(made, wanted, tolerance=1e-10):
    for ours, theirs in zip(made, wanted, strict=True):
        room = tolerance * max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=room)


def by_hand(model, batch, of_size, dims=DIMS, weights=WEIGHTS):
    """A loss written down size by size, `of_size(dim, *vectors)`."""

    def loss(batch, _labels):
        vectors = [model(column)["sentence_embedding"] for column in batch]
        return sum(w * of_size(d, *vectors) for d, w in zip(dims, weights, strict=True))

    return run(model, loss, batch)


def unit(vectors, dim):
    return functional.normalize(vectors[:, :dim])


class TestAsTheirs:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    @pytest.mark.parametrize("n_columns", [2, 4], ids=["pairs", "two hard negatives"])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"scale": 7.0},
            {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
            {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")},
            {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0},
        ],
        ids=["plain", "scale", "both directions", "all directions", "hardness"],
    )
    @pytest.mark.parametrize("cached", [False, True], ids=["whole", "cached"])
    def test_ranking_losses(self, losses, dtype, n_columns, options, cached):
        torch.manual_seed(0)
        model = made_of(HandsOver(dtype)).train()
        kind = losses.MultipleNegativesRankingLoss
        if cached:
            kind = partial(losses.CachedMultipleNegativesRankingLoss, mini_batch_size=5)
        theirs = losses.MatryoshkaLoss(model, kind(model, **options), DIMS, WEIGHTS)
        ours = MatryoshkaLoss(model, kind(model, **options), DIMS, WEIGHTS)
        batch = columns(n_columns, dtype)

        assert_same(
            run(model, ours, batch),
            run(model, theirs, batch),
            1e-10 if dtype is torch.float64 else 2e-5,
        )

    @pytest.mark.parametrize(
        ("name", "options", "labels"),
        [
            ("CoSENTLoss", {}, graded()),
            ("CosineSimilarityLoss", {}, graded()),
            ("ContrastiveLoss", {}, binary()),
            ("ContrastiveLoss", {"size_average": False}, binary()),
            ("OnlineContrastiveLoss", {}, binary()),
            ("MegaBatchMarginLoss", {"mini_batch_size": 5}, None),
            ("MegaBatchMarginLoss", {"use_mini_batched_version": False}, None),
        ],
    )
    def test_losses_of_pairs(self, losses, model, name, options, labels):
        kind = getattr(losses, name)
        theirs = losses.MatryoshkaLoss(model, kind(model, **options), DIMS, WEIGHTS)
        ours = MatryoshkaLoss(model, kind(model, **options), DIMS, WEIGHTS)

        assert_same(run(model, ours, columns(), labels), run(model, theirs, columns(), labels))

    def test_triplets_by_cosine(self, losses, model):
        def inner():
            metric = losses.TripletDistanceMetric.COSINE
            return losses.TripletLoss(model, metric, triplet_margin=0.4)

        theirs = losses.MatryoshkaLoss(model, inner(), DIMS, WEIGHTS)
        ours = MatryoshkaLoss(model, inner(), DIMS, WEIGHTS)

        assert_same(run(model, ours, columns(3)), run(model, theirs, columns(3)))

    def test_triplets_mined_within_one_column(self, losses, model):
        from sentence_transformers.sentence_transformer.losses.batch_hard_triplet import (
            BatchHardTripletLossDistanceFunction as Metric,
        )

        def inner():
            return losses.BatchHardTripletLoss(model, Metric.cosine_distance, margin=0.5)

        theirs = losses.MatryoshkaLoss(model, inner(), DIMS, WEIGHTS)
        ours = MatryoshkaLoss(model, inner(), DIMS, WEIGHTS)

        wanted = run(model, theirs, columns(1), binary())
        assert_same(run(model, ours, columns(1), binary()), wanted)

    def test_what_it_says_of_itself_on_a_model_card(self, losses, model):
        inner = losses.MultipleNegativesRankingLoss(model)
        ours = MatryoshkaLoss(model, inner, DIMS, WEIGHTS, n_dims_per_step=2)

        told = ours.get_config_dict()

        assert told.keys() == losses.MatryoshkaLoss(model, inner, DIMS).get_config_dict().keys()
        assert told["loss"] == "MultipleNegativesRankingLoss"
        assert told["matryoshka_dims"] == [8, 16, 48]
        assert told["matryoshka_weights"] == [0.5, 1.0, 2.0]
        assert "Kusupati" in ours.citation


class TestWhereTheirsIsWrong:
    def test_a_student_that_equals_its_teacher_has_no_loss(self, losses, model):
        teacher = model(columns(1)[0])["sentence_embedding"].detach()

        value, slope = run(
            model, MatryoshkaLoss(model, losses.MSELoss(model), DIMS), columns(1), teacher
        )

        theirs = losses.MatryoshkaLoss(model, losses.MSELoss(model), DIMS)
        assert theirs(columns(1), teacher).item() > 0.1
        assert float(value) == 0.0
        assert not slope.any()

    def test_an_inner_product_is_not_made_a_cosine(self, losses, model):
        from sentence_transformers.util import dot_score

        inner = losses.MultipleNegativesRankingLoss(model, scale=0.3, similarity_fct=dot_score)
        flat = run(model, inner, columns())

        assert_same(run(model, MatryoshkaLoss(model, inner, [48]), columns()), flat)
        theirs = run(model, losses.MatryoshkaLoss(model, inner, [48]), columns())
        assert abs(theirs[0] - flat[0]) > 0.1

    @pytest.mark.parametrize("metric", ["EUCLIDEAN", "MANHATTAN"])
    def test_a_distance_is_that_of_vectors_as_they_are(self, losses, model, metric):
        kind = losses.TripletLoss(model, getattr(losses.TripletDistanceMetric, metric))
        flat = run(model, kind, columns(3))

        assert_same(run(model, MatryoshkaLoss(model, kind, [48]), columns(3)), flat)

    @pytest.mark.parametrize("name", ["MarginMSELoss", "DistillKLDivLoss"])
    def test_scores_of_a_teacher_meet_inner_products_as_they_are(self, losses, model, name):
        inner = getattr(losses, name)(model)
        labels = leaf(N, 2, seed=9).detach()
        flat = run(model, inner, columns(3), labels)

        made = run(model, MatryoshkaLoss(model, inner, [48]), columns(3), labels)

        assert_same(made, flat)

    @pytest.mark.parametrize("parts", [(True, True, False), (True, False, True)])
    def test_a_classifier_serves_all_sizes_with_its_first_columns(self, losses, model, parts):
        torch.manual_seed(1)
        inner = losses.SoftmaxLoss(model, 48, 3, *parts)
        inner.classifier.double()
        labels = torch.arange(N) % 3
        full = run(model, inner, columns(), labels)
        own = {"bias": inner.classifier.bias}
        weight = inner.classifier.weight

        def of_size(dim, a, b):
            a, b = a[:, :dim], b[:, :dim]
            used = [a, b] + [(a - b).abs()] * parts[1] + [a * b] * parts[2]
            heads = [weight[:, 48 * at : 48 * at + dim] for at in range(len(used))]
            return functional.cross_entropy(
                functional.linear(torch.cat(used, 1), torch.cat(heads, 1), **own), labels
            )

        wanted = by_hand(model, columns(), of_size)
        inner.zero_grad()
        assert_same(
            run(model, MatryoshkaLoss(model, inner, DIMS, WEIGHTS), columns(), labels), wanted
        )
        assert weight.grad.any()
        assert_same(run(model, MatryoshkaLoss(model, inner, [48]), columns(), labels), full)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            losses.MatryoshkaLoss(model, inner, DIMS)(columns(), labels)

    def test_a_loss_that_caches_can_be_wrapped_twice(self, losses, model):
        inner = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=5)
        once = run(model, MatryoshkaLoss(model, inner, DIMS), columns())

        again = run(model, MatryoshkaLoss(model, inner, DIMS[1:] + DIMS[:1]), columns())

        assert_same(again, once)
        assert "calculate_loss" not in vars(inner)

    def test_numbers_of_an_angle_are_pairs_of_neighbors(self, losses, model):
        # at the full size it is theirs, once halves of a vector are put side by side
        inner = losses.AnglELoss(model)
        order = torch.arange(48).reshape(2, 24).T.flatten()
        flat = run(model, inner, columns(), graded())
        with torch.no_grad():
            model[0].layer.weight.copy_(model[0].layer.weight[order])
            model[0].layer.bias.copy_(model[0].layer.bias[order])

        value, slope = run(model, MatryoshkaLoss(model, inner, [48]), columns(), graded())

        assert_same((value, slope), (flat[0], flat[1][order]))

    def test_angles_with_negatives_are_theirs_at_the_full_size(self, losses, model):
        inner = losses.AnglELoss(model)
        order = torch.arange(48).reshape(2, 24).T.flatten()
        flat = run(model, inner, columns(4))
        with torch.no_grad():
            model[0].layer.weight.copy_(model[0].layer.weight[order])
            model[0].layer.bias.copy_(model[0].layer.bias[order])

        value, slope = run(model, MatryoshkaLoss(model, inner, [48]), columns(4))

        assert_same((value, slope), (flat[0], flat[1][order]))

    def test_nothing_of_the_model_or_the_loss_is_changed_even_if_it_fails(self, losses, model):
        inner = losses.OnlineContrastiveLoss(model)
        before, forward = dict(vars(inner)), model.forward
        ours = MatryoshkaLoss(model, inner, DIMS)

        with pytest.raises(ValueError, match="expects 16 labels"):
            ours(columns(), torch.ones(3))

        assert inner.model is model
        assert model.forward == forward
        assert "forward" not in vars(model)
        assert vars(inner).keys() == before.keys()


class TestDistillation:
    @pytest.mark.parametrize("metric", ["mse", "l2", "cosine"])
    def test_both_are_cut_and_scaled(self, losses, model, metric):
        inner = losses.EmbedDistillLoss(model, metric)
        teacher = leaf(N, 2, 48, seed=9).detach()
        gaps = {
            "mse": lambda a, b: (a - b).square().mean(),
            "l2": lambda a, b: (a - b).norm(dim=1).mean(),
            "cosine": lambda a, b: 1 - (a * b).sum(1).mean(),
        }

        def of_size(dim, *students):
            each = [
                gaps[metric](unit(student, dim), unit(teacher[:, at], dim))
                for at, student in enumerate(students)
            ]
            return sum(each) / len(each)

        made = run(model, MatryoshkaLoss(model, inner, DIMS, WEIGHTS), columns(), teacher)

        assert_same(made, by_hand(model, columns(), of_size))

    def test_a_projection_meets_a_wider_teacher_at_every_size(self, losses, model):
        inner = losses.MSELoss(model, projection_dim=60)
        inner.projection.double()
        teacher = leaf(N, 60, seed=9).detach()
        head = inner.projection

        made = run(model, MatryoshkaLoss(model, inner, DIMS, WEIGHTS), columns(1), teacher)

        wanted = by_hand(
            model,
            columns(1),
            lambda dim, a: functional.mse_loss(
                functional.linear(a[:, :dim], head.weight[:, :dim], head.bias), teacher
            ),
        )
        assert_same(made, wanted)

    def test_a_teacher_of_another_width_is_refused_with_the_way_out(self, losses, model):
        ours = MatryoshkaLoss(model, losses.MSELoss(model), DIMS)
        with pytest.raises(InputError, match=r"must have 48 numbers, got 60\n.*projection_dim=60"):
            ours(columns(1), leaf(N, 60).detach())

    def test_vectors_as_labels_of_an_unknown_loss_are_treated_as_the_student_is(self, model):
        class Gap(nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, features, labels):
                vectors = self.model(features[0])["sentence_embedding"]
                return (vectors - labels).square().sum()

        teacher = model(columns(1)[0])["sentence_embedding"].detach()

        value, _ = run(model, MatryoshkaLoss(model, Gap(model), DIMS), columns(1), teacher)

        assert float(value) < 1e-20


class _Summed(nn.Module):
    """The sum of a loss that comes in parts."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, features, labels):
        return sum(self.loss(features, labels).values())


class TestUnknownLosses:
    def test_a_subclass_is_called_for_every_size_as_it_computes_something_else(self, losses, model):
        class Twice(losses.MultipleNegativesRankingLoss):
            def forward(self, features, labels):
                return 2 * super().forward(features, labels)

        once = run(
            model,
            MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), DIMS),
            columns(),
        )

        twice = run(model, MatryoshkaLoss(model, Twice(model), DIMS), columns())

        assert_same(twice, [2 * part for part in once])

    def test_each_text_is_encoded_once_whatever_is_inside(self, losses, model):
        for inner in (losses.OnlineContrastiveLoss(model), losses.CoSENTLoss(model)):
            model[0].calls = 0
            MatryoshkaLoss(model, inner, DIMS)(columns(), binary())
            assert model[0].calls == 2

    def test_a_loss_in_several_parts_is_their_sum(self, losses, model):
        inner = losses.GlobalOrthogonalRegularizationLoss(model)
        ours = MatryoshkaLoss(model, inner, DIMS, WEIGHTS)

        made = run(model, ours, columns())

        assert_same(
            made, run(model, losses.MatryoshkaLoss(model, _Summed(inner), DIMS, WEIGHTS), columns())
        )

    def test_a_loss_for_another_model_is_refused(self, losses, model):
        other = losses.CoSENTLoss(copy.deepcopy(model))
        with pytest.raises(InputError, match=r"made for the model that is trained"):
            MatryoshkaLoss(model, other, DIMS)

    def test_a_loss_of_more_than_vectors_is_refused(self, losses, model):
        inner = losses.MatryoshkaLoss(model, losses.CoSENTLoss(model), [48])
        with pytest.raises(UnsupportedError, match="wrap the loss that is inside it"):
            MatryoshkaLoss(model, inner, DIMS)


class TestSizes:
    def test_each_part_of_a_sum_is_what_a_size_adds(self, losses, model):
        ours = MatryoshkaLoss(model, losses.CoSENTLoss(model), DIMS, WEIGHTS)

        parts = ours(columns(), graded())

        assert list(parts) == ["loss_8", "loss_16", "loss_48"]
        for (dim, loss), weight in zip(ours.last.by_dim().items(), sorted(WEIGHTS), strict=True):
            alone = (
                MatryoshkaLoss(model, losses.CoSENTLoss(model), [dim, 48], [1, 0], log_sizes=False)
                if dim < 48
                else losses.CoSENTLoss(model)
            )
            assert alone(columns(), graded()).item() == pytest.approx(loss, rel=1e-10)
            assert parts[f"loss_{dim}"].item() == pytest.approx(weight * loss, rel=1e-10)
        assert not ours.last.loss.requires_grad

    def test_the_sum_alone_is_one_number(self, losses, model):
        inner = losses.CoSENTLoss(model)
        alone = MatryoshkaLoss(model, inner, DIMS, WEIGHTS, log_sizes=False)(columns(), graded())
        parts = MatryoshkaLoss(model, inner, DIMS, WEIGHTS)(columns(), graded())

        assert alone.item() == pytest.approx(sum(parts.values()).item())

    def test_drawn_sizes_are_on_average_all_of_them(self, losses, model):
        inner = losses.CoSENTLoss(model)
        torch.manual_seed(4)
        some = MatryoshkaLoss(model, inner, DIMS, WEIGHTS, n_dims_per_step=1, log_sizes=False)
        whole = MatryoshkaLoss(model, inner, DIMS, WEIGHTS, log_sizes=False)(columns(), graded())

        seen = {some(columns(), graded()).item() for _ in range(40)}

        assert len(seen) == 3
        assert sum(seen) / 3 == pytest.approx(whole.item(), rel=1e-10)

    def test_one_seed_draws_alike_whatever_else_is_drawn(self, losses, model):
        drawn = []
        for later in (0, 7):
            torch.manual_seed(5)
            ours = MatryoshkaLoss(model, losses.CoSENTLoss(model), DIMS, n_dims_per_step=2)
            seen = []
            for _ in range(6):
                torch.rand(later)
                ours(columns(), graded())
                seen.append(ours.last.dims)
            drawn.append(seen)

        assert drawn[0] == drawn[1]
        assert set(drawn[0]) == {(8, 48), (16, 48)}  # the full size is always among several

    def test_evaluation_takes_every_size(self, losses, model):
        ours = MatryoshkaLoss(model, losses.CoSENTLoss(model), DIMS, n_dims_per_step=1)
        model.eval()
        with torch.no_grad():
            ours(columns(), graded())

        assert ours.last.dims == (8, 16, 48)
        assert ours.last.loss == pytest.approx(float(ours.last.per_size.sum()))

    @pytest.mark.parametrize(
        ("dims", "told"),
        [
            ([8, 48, 8], "dims must not repeat, got 8 twice"),
            ([8, 64], "between 1 and 48 .* got 64"),
            ([8.0, 48], "whole number of at least 1, got 8.0"),
            ([0, 48], "whole number of at least 1, got 0"),
            ([], "at least one dim, got none"),
        ],
    )
    def test_dims_that_do_not_fit(self, losses, model, dims, told):
        with pytest.raises(DimError, match=told):
            MatryoshkaLoss(model, losses.CoSENTLoss(model), dims)

    def test_weights_that_do_not_fit(self, losses, model):
        with pytest.raises(InputError, match="one for each of the 3 dims, got 2"):
            MatryoshkaLoss(model, losses.CoSENTLoss(model), DIMS, [1, 2])

    @pytest.mark.parametrize("n", [0, 4, -2])
    def test_more_or_fewer_sizes_than_can_be_drawn(self, losses, model, n):
        with pytest.raises(InputError, match="expected to draw from"):
            MatryoshkaLoss(model, losses.CoSENTLoss(model), DIMS, n_dims_per_step=n)

    def test_a_missing_full_width_is_warned_of_once_with_the_consequence(self, losses, model):
        with pytest.warns(UserWarning, match="does not train the numbers after the first 16"):
            ours = MatryoshkaLoss(model, losses.CoSENTLoss(model), [8, 16])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours(columns(), graded())


class TestCached:
    def test_dropout_drops_the_same_numbers_both_times(self, losses):
        torch.manual_seed(0)
        model = made_of(HandsOver(dropout=0.3)).train()
        small = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=N)
        whole = losses.MultipleNegativesRankingLoss(model)
        made = []
        for inner in (small, whole):
            torch.manual_seed(3)
            made.append(run(model, MatryoshkaLoss(model, inner, DIMS, WEIGHTS), columns()))

        assert_same(*made)

    def test_evaluation_needs_no_gradient(self, losses, model):
        inner = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=5)
        ours = MatryoshkaLoss(model, inner, DIMS)
        whole = MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), DIMS)
        model.eval()

        with torch.no_grad():
            made, wanted = ours(columns(), None), whole(columns(), None)

        assert {k: float(v) for k, v in made.items()} == pytest.approx(
            {k: float(v) for k, v in wanted.items()}
        )


class TestBadBatches:
    @pytest.fixture
    def ranking(self, losses, model):
        return MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), DIMS)

    @pytest.mark.parametrize("cached", [False, True])
    def test_numbers_that_are_not_finite_are_named_by_column_and_row(self, losses, model, cached):
        inner = losses.MultipleNegativesRankingLoss(model)
        if cached:
            inner = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=5)
        batch = columns(3)
        batch[2]["rows"][[4, 11]] = math.nan

        with pytest.raises(VectorError, match="column 3: 2 rows have NaN or infinity: 4, 11") as at:
            MatryoshkaLoss(model, inner, DIMS)(batch)
        assert at.value.ids == [4, 11]
        assert model[0].layer.weight.grad is None

    def test_a_batch_of_one_has_nothing_to_choose_from(self, ranking):
        with pytest.raises(TooFewError, match="drop_last=True"):
            ranking([{"rows": column["rows"][:1]} for column in columns()])

    def test_one_row_with_a_hard_negative_has(self, ranking):
        parts = ranking([{"rows": column["rows"][:1]} for column in columns(3)])
        assert parts["loss_48"].item() > 0

    def test_candidates_that_are_all_equal(self, ranking):
        batch = columns()
        batch[1]["rows"][:] = batch[1]["rows"][0]
        with pytest.raises(InputError, match="all 16 rows are equal"):
            ranking(batch)

    def test_one_column_only(self, ranking):
        with pytest.raises(InputError, match="at least 2 columns, anchors and positives, got 1"):
            ranking(columns(1))

    def test_classes_out_of_range(self, losses, model):
        ours = MatryoshkaLoss(model, losses.SoftmaxLoss(model, 48, 3), DIMS)
        with pytest.raises(InputError, match=r"labels: .* from 0 to 2, got 3 in row 3") as error:
            ours(columns(), torch.arange(N) % 4)
        assert error.value.rows == [3, 7, 11, 15]

    @pytest.mark.parametrize(
        ("labels", "told"),
        [
            (None, 'name a column of the data "label" or "score"'),
            (torch.ones(3), "expected 16 finite numbers, one for each pair"),
            (torch.full((N,), math.nan), "not all of them finite"),
        ],
    )
    def test_labels_of_pairs(self, losses, model, labels, told):
        with pytest.raises(InputError, match=told):
            MatryoshkaLoss(model, losses.CoSENTLoss(model), DIMS)(columns(), labels)

    @pytest.mark.parametrize("name", ["CoSENTLoss", "MegaBatchMarginLoss"])
    def test_a_dim_beyond_a_width_that_only_the_vectors_tell(self, losses, model, name):
        model[0].get_embedding_dimension = lambda: None
        ours = MatryoshkaLoss(model, getattr(losses, name)(model), [8, 64])
        with pytest.raises(DimError, match=r"between 1 and 48 .* got 64"):
            ours(columns(), graded())

    @pytest.mark.parametrize("name", ["CoSENTLoss", "MegaBatchMarginLoss", "OnlineContrastiveLoss"])
    def test_a_prefix_of_zeros(self, losses, model, name):
        with torch.no_grad():
            model[0].layer.weight[:8] = 0
            model[0].layer.bias[:8] = 0
        ours = MatryoshkaLoss(model, getattr(losses, name)(model), DIMS)
        with pytest.raises(VectorError, match="16 rows have only zeros in the first 8 numbers"):
            ours(columns(), binary())

    def test_columns_of_different_lengths(self, ranking):
        batch = columns()
        batch[1]["rows"] = batch[1]["rows"][1:]
        with pytest.raises(VectorError, match=r"one vector for each row, got \[16, 15\]"):
            ranking(batch)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of two ranks saw."""
    return seen_by_two_ranks("one_st_rank.py", tmp_path_factory.mktemp("ranks"), timeout=240)


class TestTwoRanks:
    @pytest.mark.parametrize(
        "name", ["plain", "both directions", "cached", "cached, both directions"]
    )
    def test_their_gradient_is_that_of_one_process_with_the_joined_batch(self, seen, name):
        from tests.training import one_st_rank

        wanted, _ = one_st_rank.slopes(one_st_rank.encoder(), name, one_st_rank.rows())

        for rank in seen:
            for ours, theirs in zip(rank[name], wanted, strict=True):
                torch.testing.assert_close(
                    torch.tensor(ours), torch.tensor(theirs), rtol=0, atol=1e-6
                )

    def test_they_draw_the_same_sizes(self, seen):
        assert seen[0]["drawn"] == seen[1]["drawn"]

    def test_other_seeds_are_refused_on_every_rank_that_draws(self, seen):
        for rank in seen:
            assert rank["other seeds"].startswith(
                "InputError: ranks must have the same settings, got seed: 0 on rank 0, 1 on rank 1"
            )
            assert rank["other seeds, all sizes"] is None
