"""Classifiers for every size against one loss per size."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training import plain
from tests.training.plain import assert_same, leaf
from torch.nn import functional

from matryo.core import DimError, InputError, UnsupportedError, VectorError
from matryo.training import (
    NestedLinear,
    nested_cosine_softmax,
    nested_multilabel,
    nested_softmax,
)

DIMS = [3, 4, 10]
N, CLASSES = 11, 6
LABELS = torch.arange(N) % CLASSES


def weight_of(*, tied):
    if tied:
        return leaf(CLASSES, 10, seed=1)
    return [leaf(CLASSES, dim, seed=dim) for dim in DIMS]


def bias_of(kind):
    if kind is None:
        return None
    return leaf(*((CLASSES,) if kind == "shared" else (len(DIMS), CLASSES)), seed=2)


def leaves_of(*tensors):
    flat = [part for t in tensors for part in (t if isinstance(t, list) else [t])]
    return [tensor for tensor in flat if tensor is not None]


forms = pytest.mark.parametrize(
    ("tied", "bias", "scaled"),
    [
        (tied, bias, scaled)
        for tied in (True, False)
        for bias in (None, "shared", "per_size")
        for scaled in (False, True)
    ],
)


@forms
@given(chunk_rows=st.integers(1, 12), smoothing=st.sampled_from([0.0, 0.1, 0.5]))
def test_softmax_has_the_gradients_of_one_loss_per_size(tied, bias, scaled, chunk_rows, smoothing):
    features, weight, bias = leaf(N, 10), weight_of(tied=tied), bias_of(bias)
    scales = leaf(len(DIMS), seed=3) if scaled else None
    weights = [0.5, 1.0, 2.0]

    def summed():
        logits = plain.logits(features, weight, DIMS, bias, scales)
        losses = [functional.cross_entropy(x, LABELS, label_smoothing=smoothing) for x in logits]
        return sum(w * loss for w, loss in zip(weights, losses, strict=True))

    assert_same(
        lambda: nested_softmax(
            features,
            weight,
            LABELS,
            DIMS,
            weights=weights,
            bias=bias,
            scales=scales,
            label_smoothing=smoothing,
            chunk_rows=chunk_rows,
        ),
        summed,
        *leaves_of(features, weight, bias, scales),
    )


@forms
def test_several_labels_have_the_gradients_of_one_binary_loss_per_size(tied, bias, scaled):
    features, weight, bias = leaf(N, 10), weight_of(tied=tied), bias_of(bias)
    scales = leaf(len(DIMS), seed=3) if scaled else None
    labels = (leaf(N, CLASSES, seed=8) > 0.4).double()
    labels[0] = 0.25

    assert_same(
        lambda: nested_multilabel(
            features, weight, labels, DIMS, bias=bias, scales=scales, chunk_rows=4
        ),
        lambda: sum(
            functional.binary_cross_entropy_with_logits(logits, labels)
            for logits in plain.logits(features, weight, DIMS, bias, scales)
        ),
        *leaves_of(features, weight, bias, scales),
    )


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.5])
@pytest.mark.parametrize("chunk_rows", [3, 100])
def test_cosines_with_proxies_have_the_gradients_of_one_loss_per_size(margin, chunk_rows):
    features, proxies = leaf(N, 10), leaf(CLASSES, 10, seed=1)
    with torch.no_grad():  # one at a right angle or beyond, one nearly opposite, one near
        proxies[0] = -features[0] + 0.01 * features[1]
        proxies[1] = features[1] * 2 + 0.1 * features[0]

    assert_same(
        lambda: nested_cosine_softmax(
            features, proxies, LABELS, DIMS, scale=9.0, margin=margin, chunk_rows=chunk_rows
        ),
        lambda: plain.arcface(features, proxies, LABELS, DIMS, scale=9.0, margin=margin),
        features,
        proxies,
    )


def test_the_scale_of_proxies_can_be_learned():
    features, proxies = leaf(N, 10), leaf(CLASSES, 10, seed=1)
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)

    assert_same(
        lambda: nested_cosine_softmax(features, proxies, LABELS, DIMS, scale=scale),
        lambda: sum(
            functional.cross_entropy(plain.cosines(features, proxies, dim) * scale, LABELS)
            for dim in DIMS
        ),
        features,
        proxies,
        scale,
    )


def test_a_feature_on_its_own_proxy_has_a_finite_gradient():
    proxies = leaf(CLASSES, 10, dtype=torch.float32)
    features = proxies.detach()[LABELS].requires_grad_()

    nested_cosine_softmax(features, proxies, LABELS, DIMS, margin=0.5).loss.backward()

    assert features.grad.isfinite().all()


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8])
def test_labels_of_any_whole_type_are_class_numbers(kind):
    made = [
        nested_softmax(leaf(N, 10), weight_of(tied=True), labels, DIMS).loss
        for labels in (LABELS, LABELS.to(kind))
    ]

    assert made[0] == made[1]


def test_frozen_features_teach_the_head_alone():
    features, weight, bias = leaf(N, 10).detach(), weight_of(tied=True), bias_of("shared")

    assert_same(
        lambda: nested_softmax(features, weight, LABELS, DIMS, bias=bias),
        lambda: sum(
            functional.cross_entropy(logits, LABELS)
            for logits in plain.logits(features, weight, DIMS, bias)
        ),
        weight,
        bias,
    )


class TestNestedLinear:
    @forms
    def test_its_loss_is_that_of_its_logits(self, tied, bias, scaled):
        head = NestedLinear(DIMS, CLASSES, tied=tied, bias=bias, scales=scaled, weights=[1, 2, 3])
        head.double()
        features = leaf(N, 10)

        logits = head(features)

        assert logits.shape == (len(DIMS), N, CLASSES)
        assert_same(
            lambda: head.loss(features, LABELS, label_smoothing=0.1),
            lambda: sum(
                size * functional.cross_entropy(part, LABELS, label_smoothing=0.1)
                for size, part in enumerate(head(features), 1)
            ),
            features,
            *head.parameters(),
        )

    def test_tied_heads_are_as_many_numbers_as_one_head(self):
        count = {
            tied: sum(
                p.numel() for p in NestedLinear(DIMS, CLASSES, tied=tied, bias=None).parameters()
            )
            for tied in (True, False)
        }

        assert count == {True: 10 * CLASSES, False: (3 + 4 + 10) * CLASSES}

    def test_it_learns_classes_that_the_first_numbers_tell_apart(self):
        torch.manual_seed(0)
        features = functional.one_hot(LABELS, 10).float()[:, torch.arange(9, -1, -1)]
        head = NestedLinear([5, 10], CLASSES)
        steps = torch.optim.Adam(head.parameters(), lr=0.1)
        for _ in range(60):
            steps.zero_grad()
            head.loss(features, LABELS).loss.backward()
            steps.step()

        right = (head(features).argmax(2) == LABELS).float().mean(1)

        assert right[1] == 1
        assert right[0] < 1  # the classes whose numbers come last are not among the first five

    def test_what_was_saved_comes_back(self):
        head, other = (NestedLinear(DIMS, CLASSES, tied=False, scales=True) for _ in range(2))

        other.load_state_dict(head.state_dict())

        features = torch.ones(2, 10)
        torch.testing.assert_close(other(features), head(features))


class TestRefusals:
    @pytest.mark.parametrize("wrong", [-1, CLASSES, -100])
    @pytest.mark.parametrize("loss", [nested_softmax, nested_cosine_softmax])
    def test_labels_out_of_range(self, loss, wrong):
        labels = LABELS.clone()
        labels[[2, 5]] = wrong
        message = rf"labels: .* from 0 to 5, got {wrong} in row 2 \(2 of 11"
        with pytest.raises(InputError, match=message) as caught:
            loss(leaf(N, 10), weight_of(tied=True), labels, DIMS)
        assert caught.value.rows == [2, 5]

    @pytest.mark.parametrize("labels", [LABELS[:5], LABELS.float(), LABELS[:, None]])
    def test_labels_that_are_no_class_numbers(self, labels):
        with pytest.raises(InputError, match="labels: expected 11 whole numbers, one for each row"):
            nested_softmax(leaf(N, 10), weight_of(tied=True), labels, DIMS)

    def test_shares_outside_zero_and_one(self):
        labels = torch.zeros(N, CLASSES)
        labels[4, 2] = 2
        with pytest.raises(InputError, match=r"labels: expected numbers from 0 to 1, .* in 4"):
            nested_multilabel(leaf(N, 10), weight_of(tied=True), labels, DIMS)

    def test_as_many_labels_as_classes(self):
        with pytest.raises(InputError, match=r"labels: expected shape \(11, 6\), got \(11, 5\)"):
            nested_multilabel(leaf(N, 10), weight_of(tied=True), torch.zeros(N, 5), DIMS)

    def test_a_size_without_a_head_of_its_own(self):
        message = r"one \(classes, dim\) matrix for each of the dims 3,4,10, got shapes \(6, 3\), "
        with pytest.raises(InputError, match=message):
            nested_softmax(leaf(N, 10), weight_of(tied=False)[:2], LABELS, DIMS)

    @pytest.mark.parametrize(("name", "shape"), [("bias", (3,)), ("scales", (2,))])
    def test_what_does_not_fit_the_sizes(self, name, shape):
        with pytest.raises(InputError, match=rf"{name}: expected shape .*, got \({shape[0]},\)"):
            nested_softmax(
                leaf(N, 10), weight_of(tied=True), LABELS, DIMS, **{name: torch.ones(shape)}
            )

    def test_widths_that_differ(self):
        with pytest.raises(InputError, match="features and weight must be of one width, got 12"):
            nested_softmax(leaf(N, 12), leaf(CLASSES, 10), LABELS, [4, 12])

    def test_a_dim_beyond_the_features(self):
        with pytest.raises(DimError, match="between 1 and 10"):
            nested_softmax(leaf(N, 10), leaf(CLASSES, 10), LABELS, [4, 12])

    @pytest.mark.parametrize("what", ["features", "weight"])
    def test_numbers_that_are_not_finite(self, what):
        parts = {"features": leaf(N, 10), "weight": leaf(CLASSES, 10)}
        with torch.no_grad():
            parts[what][4, 9] = math.nan
        with pytest.raises(VectorError, match=f"{what}: 1 row has NaN or infinity: 4"):
            nested_softmax(**parts, labels=LABELS, dims=DIMS)

    @pytest.mark.parametrize("margin", [-0.1, math.pi / 2, math.nan])
    def test_a_margin_that_is_none(self, margin):
        with pytest.raises(InputError, match="margin must be from 0 to below pi / 2"):
            nested_cosine_softmax(leaf(N, 10), leaf(CLASSES, 10), LABELS, DIMS, margin=margin)

    def test_a_margin_and_a_scale_to_learn(self):
        scale = torch.tensor(9.0, requires_grad=True)
        with pytest.raises(UnsupportedError, match="a margin needs a scale that is a fixed number"):
            nested_cosine_softmax(
                leaf(N, 10), leaf(CLASSES, 10), LABELS, DIMS, scale=scale, margin=0.1
            )

    @pytest.mark.parametrize("smoothing", [-0.1, 1.0])
    def test_a_smoothing_that_is_none(self, smoothing):
        with pytest.raises(InputError, match="label_smoothing must be from 0 to below 1"):
            nested_softmax(leaf(N, 10), leaf(CLASSES, 10), LABELS, DIMS, label_smoothing=smoothing)

    def test_a_classifier_of_nothing(self):
        with pytest.raises(InputError, match="at least 2 classes, got 1"):
            NestedLinear(DIMS, 1)
        with pytest.raises(InputError, match='bias must be "per_size", "shared" or None'):
            NestedLinear(DIMS, 3, bias="yes")

    def test_features_of_another_width(self):
        with pytest.raises(
            InputError, match=r"features: expected \(rows, 10\), got shape \(4, 12\)"
        ):
            NestedLinear(DIMS, 3)(torch.ones(4, 12))
