"""The training loop: what a step is made of, what a checkpoint keeps, what is refused."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training import one_training
from tests.training.tiny import make_model, make_records, write_records

from matryo.core import FormatError, InputError, Side, TooFewError, VectorError
from matryo.readers import TrainingData, read_training_data
from matryo.training.run import Recipe, batches, encode, fit, load_model
from matryo.training.sizes import sizes_of

needs_models = pytest.mark.skipif(
    find_spec("sentence_transformers") is None, reason="needs sentence-transformers"
)
RECIPE = Recipe(sizes_of("4,8,16"), steps=6, batch_size=16, learning_rate=2e-3, seed=1)


@pytest.fixture(scope="module")
def still_model(tmp_path_factory):
    """A model without dropout, whose steps do not depend on how a batch is cut."""
    return make_model(tmp_path_factory.mktemp("still") / "tiny", dropout=0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def data_of(tmp_path):
    def read(kind, n=200):
        return read_training_data(write_records(tmp_path / f"{kind}.jsonl", make_records(kind, n)))

    return read


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(mine, theirs):
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def pairs(anchors, positives):
    where = [f"line {i}" for i in range(len(anchors))]
    columns = {"anchor": list(anchors), "positive": list(positives)}
    return TrainingData("made", "pairs", columns, [], where)


class TestBatches:
    @given(st.data())
    @settings(max_examples=50, deadline=None)
    def test_no_text_is_twice_in_a_batch_and_no_row_twice_in_an_epoch(self, data):
        words = st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=30)
        anchors = data.draw(words)
        positives = data.draw(st.permutations(anchors))
        size, rows = data.draw(st.integers(1, 3)), len(anchors)
        made = batches(pairs(anchors, positives), size, seed=data.draw(st.integers(0, 9)))

        try:
            first = list(itertools.islice(made, rows // size))
        except TooFewError:
            return

        for batch in first:
            texts = [{anchors[row], positives[row]} for row in batch]
            assert sum(map(len, texts)) == len(set().union(*texts))
        seen = []  # rows may come again only once an epoch is over
        for row in itertools.chain(*first):
            if row in seen:
                break
            seen.append(row)
        assert len(seen) >= size

    def test_an_epoch_without_repeated_texts_has_every_row_once(self):
        data = pairs([f"a{i}" for i in range(20)], [f"b{i}" for i in range(20)])

        two = list(itertools.islice(batches(data, 5, seed=0), 8))

        for epoch in (two[:4], two[4:]):
            assert sorted(itertools.chain(*epoch)) == list(range(20))
        assert two[:4] != two[4:]

    def test_a_batch_that_cannot_be_filled_is_refused_with_what_is_needed(self):
        data = pairs(["a"] * 20, [f"b{i}" for i in range(20)])

        with pytest.raises(TooFewError, match=r"share no text, got 1 of 20") as error:
            next(batches(data, 2, seed=0))

        assert error.value.needed == 2


class TestRecipe:
    def test_the_rate_rises_falls_and_never_is_zero(self):
        recipe = replace(RECIPE, steps=100, warmup=0.2, learning_rate=1.0)

        rates = [recipe.rate(step) for step in range(100)]

        assert max(rates) == rates[20] == 1.0
        assert np.allclose(np.diff(rates[:20]), 1 / 21)
        assert np.allclose(np.diff(rates[20:]), -1 / 80)
        assert min(rates) > 0

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"steps": 0}, "steps must be at least 1, got 0"),
            ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
            ({"learning_rate": float("nan")}, "learning_rate must be a finite number above 0"),
            ({"warmup": 1.0}, "warmup must be a share of the steps below 1"),
            ({"cached": 0}, "cached must be at least 1"),
            ({"n_dims_per_step": 1}, "from 2 to 3 of the dims 4,8,16, got 1"),
        ],
    )
    def test_numbers_outside_their_range_are_refused(self, wrong, message):
        with pytest.raises(InputError, match=message):
            replace(RECIPE, **wrong)


@needs_models
@pytest.mark.slow
class TestFit:
    @pytest.mark.parametrize("kind", ["pairs", "triplets", "scored", "labelled"])
    def test_every_size_learns_from_every_kind_of_examples(self, kind, tiny, data_of):
        model, recipe = load_model(tiny), replace(RECIPE, steps=60)

        history = fit(model, data_of(kind), recipe)

        for dim in ("4", "8", "16"):
            losses = [row["per_size"][dim] for row in history]
            assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])

    def test_a_small_batch_at_a_time_makes_the_same_steps(self, still_model, data_of):
        whole, parts = load_model(still_model), load_model(still_model)
        data = data_of("triplets")

        fit(whole, data, RECIPE)
        fit(parts, data, replace(RECIPE, cached=5))

        torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kind", ["pairs", "labelled"])
    def test_a_run_that_goes_on_ends_like_one_that_never_stopped(
        self, kind, tiny, data_of, tmp_path
    ):
        data, unbroken, stopped = data_of(kind), load_model(tiny), load_model(tiny)
        history = fit(unbroken, data, RECIPE)

        def stop(step, _losses):
            if step == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(stopped, data, RECIPE, checkpoints=tmp_path / "c", save_every=2, on_step=stop)
        resumed = load_model(tiny)
        again = fit(resumed, data, RECIPE, checkpoints=tmp_path / "c", save_every=2, resume=True)

        assert same(weights(resumed), weights(unbroken))
        assert again == history

    def test_the_random_state_of_the_caller_is_left_alone(self, tiny, data_of):
        torch.manual_seed(5)
        wanted = torch.rand(3)
        torch.manual_seed(5)

        fit(load_model(tiny), data_of("pairs"), replace(RECIPE, steps=1))

        assert torch.equal(torch.rand(3), wanted)

    def test_one_checkpoint_is_kept_and_half_of_one_is_swept_away(self, tiny, data_of, tmp_path):
        folder = tmp_path / "c"
        (folder / ".step-00000004.xyz.part").mkdir(parents=True)

        fit(load_model(tiny), data_of("pairs"), RECIPE, checkpoints=folder, save_every=4)

        assert [path.name for path in folder.iterdir()] == ["step-00000006"]

    def test_a_checkpoint_of_other_settings_is_refused_with_what_differs(
        self, tiny, data_of, tmp_path
    ):
        folder, data = tmp_path / "c", data_of("pairs")
        fit(load_model(tiny), data, RECIPE, checkpoints=folder, save_every=4)
        other = replace(RECIPE, learning_rate=1e-4, sizes=sizes_of("8,16"))

        with pytest.raises(InputError, match=r"dims: \[4, 8, 16\], now \[8, 16\]") as error:
            fit(load_model(tiny), data, other, checkpoints=folder, resume=True)
        with pytest.raises(InputError, match="other settings: data: "):
            fit(load_model(tiny), data.take(range(100)), RECIPE, checkpoints=folder, resume=True)

        assert error.value.differing == ["dims", "dim_weights", "learning_rate"]

    def test_a_changed_byte_of_a_checkpoint_is_found(self, tiny, data_of, tmp_path):
        folder, data = tmp_path / "c", data_of("pairs")
        fit(load_model(tiny), data, RECIPE, checkpoints=folder, save_every=6)
        file = folder / "step-00000006" / "state.safetensors"
        changed = bytearray(file.read_bytes())
        changed[-1] ^= 1
        file.write_bytes(changed)

        with pytest.raises(FormatError, match="got changed bytes"):
            fit(load_model(tiny), data, RECIPE, checkpoints=folder, resume=True)

    def test_vectors_that_are_not_finite_stop_the_run_before_the_step(
        self, tiny, data_of, tmp_path
    ):
        folder, data, model = tmp_path / "c", data_of("pairs"), load_model(tiny)
        word = data.columns["positive"][3].split()[0]
        number = model.tokenizer.convert_tokens_to_ids(word)
        with torch.no_grad():
            model[0].auto_model.embeddings.word_embeddings.weight[number] = torch.nan
        before = weights(model)
        recipe = replace(RECIPE, batch_size=200, steps=3)

        with pytest.raises(VectorError, match=r"NaN.*pairs\.jsonl, line \d+, field") as error:
            fit(model, data, recipe, checkpoints=folder, save_every=1)

        texts = zip(*data.columns.values(), strict=True)
        named = {where for where, both in zip(data.where, texts, strict=True)
                 if word in " ".join(both).split()}  # fmt: skip
        assert set(error.value.ids) == named
        after = weights(model)
        assert all(torch.equal(after[k].nan_to_num(), before[k].nan_to_num()) for k in before)

    def test_a_step_too_large_ends_the_run_and_keeps_the_last_checkpoint(
        self, tiny, data_of, tmp_path
    ):
        recipe = replace(RECIPE, learning_rate=1e30, steps=20)

        with pytest.raises(VectorError, match="lower the learning rate"):
            fit(load_model(tiny), data_of("pairs"), recipe, checkpoints=tmp_path / "c",
                save_every=1)  # fmt: skip

        assert len(list((tmp_path / "c").glob("step-*"))) == 1

    @pytest.mark.parametrize("kind", ["pairs", "scored"])
    def test_a_batch_of_one_has_nothing_to_compare(self, kind, tiny, data_of):
        with pytest.raises(TooFewError, match=f"a batch of {kind} needs at least 2"):
            fit(load_model(tiny), data_of(kind), replace(RECIPE, batch_size=1))


@needs_models
class TestModels:
    def test_vectors_are_those_of_the_library(self, tiny):
        model, texts = load_model(tiny), ["w1 w2", "w3", "w4 w5 w6 w7"]

        made = encode(model, texts, Side.DOCUMENT, batch_size=2)

        np.testing.assert_allclose(made, model.encode(texts), atol=1e-6)

    def test_a_length_that_the_model_does_not_read_is_refused(self, tiny):
        with pytest.raises(InputError, match="between 1 and 32 tokens"):
            load_model(tiny, max_length=64)

    def test_a_folder_without_a_model_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="cannot load the sentence-transformers model"):
            load_model(tmp_path)


def start(*arguments, launcher=()):
    script = Path(__file__).with_name("one_training.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [sys.executable, *launcher, str(script), *map(str, arguments)],  # resumes what is there
        env=environment, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip


@needs_models
@pytest.mark.slow
class TestProcesses:
    def test_killed_in_the_middle_and_resumed_it_ends_with_the_same_bits(self, tiny, tmp_path):
        data = write_records(tmp_path / "pairs.jsonl", make_records("pairs"))

        killed = start(tiny, data, tmp_path / "killed", 5)
        left = [path.name for path in (tmp_path / "killed.checkpoints").iterdir()]
        resumed = start(tiny, data, tmp_path / "killed")
        one_training.main(tiny, data, tmp_path / "unbroken")

        assert killed.returncode == -signal.SIGKILL
        assert left == ["step-00000004"]
        assert resumed.returncode == 0, resumed.stderr
        mine, theirs = (weights(load_model(tmp_path / name)) for name in ("killed", "unbroken"))
        assert same(mine, theirs)
        assert not (tmp_path / "killed.checkpoints").exists()

    @pytest.mark.parametrize("kind", ["pairs", "scored", "labelled"])
    def test_two_processes_end_like_one_with_the_joined_batch(self, kind, still_model, tmp_path):
        data = write_records(tmp_path / "data.jsonl", make_records(kind))
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

        both = start(still_model, data, tmp_path / "two", launcher=launcher)
        one_training.main(still_model, data, tmp_path / "one")

        assert both.returncode == 0, both.stderr
        two, one = (weights(load_model(tmp_path / name)) for name in ("two", "one"))
        # AdamW makes steps of one length of the smallest gradients too, and so of their rounding
        torch.testing.assert_close(two, one, rtol=0, atol=1e-4)
