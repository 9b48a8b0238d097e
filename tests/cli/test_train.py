"""`matryo train`, from a file of examples to a folder that any library loads."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

if find_spec("sentence_transformers") is None:
    pytest.skip("needs sentence-transformers", allow_module_level=True)

from tests.training.tiny import make_model, make_records, write_records

from matryo.cli import main
from matryo.core import TooFewError
from matryo.jobs.training import _hold_out, train
from matryo.readers import read_training_data

pytestmark = pytest.mark.slow
QUICK = ("--dims", "4,8,16", "--steps", "6", "--batch-size", "16", "--lr", "1e-3")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def pairs(tmp_path):
    return write_records(tmp_path / "pairs.jsonl", make_records("pairs", 300))


def run(capsys, *arguments):
    code = main(["train", *map(str, arguments)])
    return (code, *capsys.readouterr())


class TestWhatIsWritten:
    def test_a_folder_that_says_its_sizes_and_results_beside_it(
        self, tiny, pairs, tmp_path, capsys
    ):
        from sentence_transformers import SentenceTransformer

        code, out, _ = run(capsys, "--data", pairs, "--model", tiny, "-o", tmp_path / "m", *QUICK)

        results = json.loads((tmp_path / "m.results.json").read_text("utf-8"))
        config = json.loads((tmp_path / "m" / "config.json").read_text("utf-8"))
        assert code == 0
        assert "nDCG@10 on 64 held-out examples" in out
        assert config["matryoshka_dimensions"] == [4, 8, 16]
        assert SentenceTransformer(str(tmp_path / "m"), truncate_dim=8).encode("w1").shape == (8,)
        assert results["data"] == {
            "name": "pairs", "kind": "pairs", "origin": "real", "training": 236, "held_out": 64,
        }  # fmt: skip
        assert [row["step"] for row in results["history"]] == [1, 2, 3, 4, 5, 6]
        assert set(results["history"][0]["per_size"]) == {"4", "8", "16"}
        assert [row["dim"] for row in results["quality"]] == [4, 8, 16] * 2
        assert all(row["low"] <= row["difference"] <= row["high"] for row in results["quality"])

    @pytest.mark.parametrize(
        ("kind", "measures"),
        [("scored", ["spearman"]), ("labelled", ["accuracy_knn", "accuracy_probe"])],
    )
    def test_other_examples_are_measured_by_their_own_measures(
        self, kind, measures, tiny, tmp_path
    ):
        data = write_records(tmp_path / "d.jsonl", make_records(kind, 300))

        done = train(data, tmp_path / "m", model=str(tiny), dims="8,16", steps=60, batch_size=32,
                     learning_rate=3e-3)  # fmt: skip

        assert list(dict.fromkeys(row["measure"] for row in done["quality"])) == measures
        # random weights tell shared words already; classes they must learn
        assert kind == "scored" or done["quality"][0]["low"] > 0

    def test_without_a_list_sizes_are_dense_up_to_the_full_width(self, tiny, pairs, tmp_path):
        done = train(pairs, tmp_path / "m", model=str(tiny), steps=1, dev_share=0)

        assert done["settings"]["dims"] == [16]
        assert done["quality"] == []

    def test_a_static_model_is_trained_too(self, pairs, tmp_path):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        from tests.training.tiny import WORDS
        from tokenizers import Tokenizer, models, pre_tokenizers

        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, WORDS[0]))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)])
        static.save(str(tmp_path / "static"))

        done = train(pairs, tmp_path / "m", model=str(tmp_path / "static"), dims="4,16", steps=4)

        assert SentenceTransformer(str(tmp_path / "m")).encode("w1").shape == (16,)
        assert done["settings"]["max_length"] is None


class TestRefusals:
    def test_a_size_list_without_the_full_width_is_warned_of_before_it_starts(
        self, tiny, pairs, tmp_path, capsys
    ):
        code, _, err = run(
            capsys, "--data", pairs, "--model", tiny, "-o", tmp_path / "m", *QUICK[2:],
            "--dims", "4,8", "--dev-share", 0,
        )  # fmt: skip

        warned = [line for line in err.splitlines() if line.startswith("warning: ")]
        assert code == 0
        assert len(warned) == 1
        assert "the full width, 16, is not among the dims 4,8" in warned[0]
        assert "the whole vector may get worse" in warned[0]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--dims", "4,32"), "dim must be a whole number between 1 and 16"),
            (("--dims", "8,4"), "dims must ascend, got 4 after 8"),
            (("--dims", "8,8,16"), "dims must not repeat"),
            (("--dims", "dens"), "expected dims as whole numbers with commas"),
            (("--weights", "1,2"), "expected one weight for each of the 3 dims"),
            (("--batch-size", "1"), "a batch of pairs needs at least 2 to compare"),
            (("--batch-size", "300"), "needs as many examples to train on"),
            (("--dev-share", "0.6"), "are held out to measure on"),
            (("--max-length", "99"), "max_length must be between 1 and 32 tokens"),
        ],
    )
    def test_what_does_not_fit_is_refused_and_nothing_is_written(
        self, options, message, tiny, pairs, tmp_path, capsys
    ):
        code, out, err = run(
            capsys, "--data", pairs, "--model", tiny, "-o", tmp_path / "m", *QUICK, *options
        )

        assert (code, out) == (1, "")
        assert message in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl"]

    def test_a_folder_that_exists_is_left_alone(self, tiny, pairs, tmp_path, capsys):
        (tmp_path / "m").mkdir()

        code, _, err = run(capsys, "--data", pairs, "--model", tiny, "-o", tmp_path / "m", *QUICK)

        assert code == 1
        assert err.startswith(f"error: {tmp_path / 'm'} exists already")
        assert not list((tmp_path / "m").iterdir())

    def test_a_checkpoint_is_not_written_over_unasked(self, tiny, pairs, tmp_path, capsys):
        (tmp_path / "m.checkpoints" / "step-00000004").mkdir(parents=True)

        code, _, err = run(capsys, "--data", pairs, "--model", tiny, "-o", tmp_path / "m", *QUICK)

        assert code == 1
        assert "holds a checkpoint of a run that did not end" in err

    def test_examples_held_out_share_no_first_text_with_those_trained_on(self, tmp_path):
        records = [
            {**record, "anchor": f"w{row // 3}"}
            for row, record in enumerate(make_records("pairs", 300))
        ]
        data = write_records(tmp_path / "d.jsonl", records)

        held, kept = _hold_out(read_training_data(data), None, 0.3, seed=0)

        assert held is not None
        assert not set(held.columns["anchor"]) & set(kept.columns["anchor"])
        assert len(held) + len(kept) == 300
        assert 90 <= len(held) <= 92

    def test_one_first_text_for_all_leaves_nothing_to_hold_out(self, tmp_path):
        records = [{**record, "anchor": "w1"} for record in make_records("pairs", 300)]
        data = read_training_data(write_records(tmp_path / "d.jsonl", records))

        with pytest.raises(TooFewError, match="got 1 first texts for 300 examples"):
            _hold_out(data, None, 0.1, seed=0)
