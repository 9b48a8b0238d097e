"""The losses in the loops that people have: sentence-transformers, Lightning, Accelerate."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from tests.training import st_models
from torch import nn

from matryo.core import VectorError
from matryo.training import nested_info_nce

pytestmark = [pytest.mark.torch, pytest.mark.slow]

DIMS = [48, 8, 16]
ANCHORS = st_models.texts(96, 1)
POSITIVES = st_models.alike(ANCHORS, 2)


def data(**more):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES, **more})


class TestSentenceTransformerTrainer:
    def trained(self, model, loss, folder, *, dataset=None, evaluator=None, **options):
        sentence_transformers = pytest.importorskip("sentence_transformers")
        pytest.importorskip("accelerate")
        settings = {
            "per_device_train_batch_size": 32,
            "num_train_epochs": 2,
            "learning_rate": 1e-1,
            "logging_steps": 3,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        trainer = sentence_transformers.SentenceTransformerTrainer(
            model,
            sentence_transformers.SentenceTransformerTrainingArguments(
                str(folder), **(settings | options)
            ),
            data() if dataset is None else dataset,
            eval_dataset=data() if "eval_strategy" in options else None,
            loss=loss,
            evaluator=evaluator,
        )
        trainer.train()
        return trainer

    @pytest.fixture
    def losses(self):
        pytest.importorskip("sentence_transformers")
        from sentence_transformers.sentence_transformer import losses

        return losses

    @pytest.fixture
    def ours(self):
        from matryo.training.sentence_transformers import MatryoshkaLoss

        return MatryoshkaLoss

    def test_it_trains_to_the_same_weights_as_theirs(self, losses, ours, tmp_path):
        weights = []
        for kind in (ours, losses.MatryoshkaLoss):
            model = st_models.static_model()
            inner = losses.MultipleNegativesRankingLoss(model)
            loss = kind(model, loss=inner, matryoshka_dims=DIMS)
            self.trained(model, loss, tmp_path, optim="sgd", learning_rate=3.0)
            weights.append(model[0].embedding.weight.detach())

        torch.testing.assert_close(*weights, rtol=0, atol=1e-4)
        assert (weights[0] - st_models.static_model()[0].embedding.weight).abs().max() > 0.1

    def test_the_loss_of_every_size_is_in_the_logs_and_they_sum_up(self, losses, ours, tmp_path):
        model = st_models.static_model()
        loss = ours(model, losses.MultipleNegativesRankingLoss(model), DIMS)

        trainer = self.trained(
            model, loss, tmp_path, eval_strategy="epoch", per_device_eval_batch_size=32
        )

        for begins in ("", "eval_"):
            logs = [entry for entry in trainer.state.log_history if f"{begins}loss" in entry]
            assert len(logs) == 2
            for entry in logs:
                parts = [entry[f"{begins}loss_{dim}"] for dim in DIMS]
                assert sum(parts) == pytest.approx(entry[f"{begins}loss"], abs=2e-3)
                assert all(part > 0 for part in parts)
            assert logs[1][f"{begins}loss_8"] < logs[0][f"{begins}loss_8"]

    def test_an_evaluator_is_logged_and_chooses_the_best_model(self, losses, ours, tmp_path):
        from matryo.training.evaluator import NestedSearchEvaluator

        model = st_models.static_model()
        evaluator = NestedSearchEvaluator(
            {f"q{i}": text for i, text in enumerate(ANCHORS)},
            {f"d{i}": text for i, text in enumerate(POSITIVES)},
            {f"q{i}": {f"d{i}"} for i in range(len(ANCHORS))},
            sorted(DIMS),
            base=model,
            name="made",
        )
        loss = ours(model, losses.MultipleNegativesRankingLoss(model), DIMS)

        trainer = self.trained(
            model,
            loss,
            tmp_path,
            evaluator=evaluator,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="eval_made_nDCG@10_mean",
        )

        logs = [e for e in trainer.state.log_history if "eval_made_nDCG@10_8" in e]
        assert logs[0]["eval_made_nDCG@10_8_of_base_low"] > 1
        assert trainer.state.best_metric == max(e["eval_made_nDCG@10_mean"] for e in logs)
        assert len(list(tmp_path.rglob("made_nDCG@10_by_size.csv"))) == 1
        card = next(tmp_path.rglob("README.md")).read_text("utf-8")
        assert '"matryoshka_dims"' in card
        assert "kusupati2022matryoshka" in card

    def test_steps_that_draw_sizes_log_those_of_a_window(self, losses, ours, tmp_path):
        model = st_models.static_model()
        loss = ours(model, losses.MultipleNegativesRankingLoss(model), DIMS, n_dims_per_step=2)

        trainer = self.trained(model, loss, tmp_path, num_train_epochs=3, logging_steps=9)

        (entry,) = [e for e in trainer.state.log_history if "loss" in e]
        assert {"loss_8", "loss_16", "loss_48"} <= entry.keys()

    def test_a_batch_that_went_wrong_stops_before_the_step(self, losses, ours, tmp_path):
        model = st_models.static_model()
        with torch.no_grad():
            model[0].embedding.weight[7] = torch.nan
        before = model[0].embedding.weight.detach().clone()

        with pytest.raises(VectorError, match=r"column [12]: \d+ rows? ha(s|ve) NaN or infinity"):
            self.trained(
                model, ours(model, losses.MultipleNegativesRankingLoss(model), DIMS), tmp_path
            )

        assert torch.equal(model[0].embedding.weight.nan_to_num(), before.nan_to_num())

    def test_a_compiled_model_gets_the_same_gradients(self, losses, ours):
        grads = []
        for compiled in (False, True):
            model = st_models.static_model()
            loss = ours(model, losses.MultipleNegativesRankingLoss(model), DIMS)
            if compiled:
                loss.model = loss.loss.model = torch.compile(model, backend="eager")
            batch = [model.preprocess(column[:8]) for column in (ANCHORS, POSITIVES)]
            sum(loss(batch).values()).backward()
            grads.append(model[0].embedding.weight.grad)

        torch.testing.assert_close(*grads)


class TestMiniLM:
    """Losses that look at more than vectors, in a transformer."""

    DIMS = [384, 64]  # noqa: RUF012

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return st_models.minilm().eval()

    @pytest.fixture
    def losses(self):
        pytest.importorskip("sentence_transformers")
        from sentence_transformers.sentence_transformer import losses

        return losses

    def run(self, model, loss):
        texts = ["a leaf of a tree", "the sea at night", "how to mend a bicycle", "bread"]
        others = ["foliage", "dark water", "repairing a bike wheel at home", "a loaf"]
        model.zero_grad()
        batch = [model.preprocess(column) for column in (texts, others)]
        random.seed(3)
        made = loss(batch, torch.tensor([0.9, 0.7, 1.0, 0.8]))
        made = sum(made.values()) if isinstance(made, dict) else made
        made.backward()
        slopes = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return made.detach(), torch.cat([slope.flatten() for slope in slopes])

    def assert_same(self, made, wanted):
        assert made[0].item() == pytest.approx(wanted[0].item(), rel=1e-5)
        assert (made[1] - wanted[1]).norm() < 1e-4 * wanted[1].norm()

    @pytest.mark.parametrize("cached", [False, True], ids=["whole", "cached"])
    def test_a_guide_is_asked_for_the_texts_themselves(self, model, losses, cached):
        from matryo.training.sentence_transformers import MatryoshkaLoss

        kind, options = losses.GISTEmbedLoss, {}
        if cached:
            kind, options = losses.CachedGISTEmbedLoss, {"mini_batch_size": 3}
        guide = copy.deepcopy(model)
        wanted = self.run(
            model, losses.MatryoshkaLoss(model, kind(model, guide, **options), self.DIMS)
        )

        inner = kind(model, guide, **options)
        self.assert_same(self.run(model, MatryoshkaLoss(model, inner, self.DIMS)), wanted)

    def test_layers_go_around_sizes(self, model, losses):
        from matryo.training.sentence_transformers import MatryoshkaLoss

        wanted = self.run(
            model,
            losses.Matryoshka2dLoss(model, losses.CoSENTLoss(model), self.DIMS, n_dims_per_step=-1),
        )

        sizes = MatryoshkaLoss(model, losses.CoSENTLoss(model), self.DIMS, log_sizes=False)
        made = self.run(model, losses.AdaptiveLayerLoss(model, sizes))

        self.assert_same(made, wanted)


def vectors():
    """Synthetic rows whose first numbers say nothing."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(64, 24, generator=generator)
    noise = torch.randn(2, 64, 24, generator=generator)
    noise[..., :6] *= 10
    return shared + 0.3 * noise


def by_size(encoder, batch):
    return nested_info_nce(encoder(batch[0]), encoder(batch[1]), "4,12,24")


@pytest.mark.filterwarnings("ignore")  # of logging, workers and devices, none of them ours
def test_a_lightning_module_logs_every_size(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Map(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(24, 24, bias=False)

        def training_step(self, batch, _):
            made = by_size(self.encoder, batch)
            self.log_dict({f"loss_{dim}": loss for dim, loss in made.by_dim().items()})
            return made.loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    torch.manual_seed(0)
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    trainer = lightning.Trainer(
        max_epochs=40,
        accelerator="cpu",
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    batches = torch.utils.data.DataLoader([tuple(vectors())], batch_size=None)
    trainer.fit(Map(), batches)

    assert seen[0].keys() == {"loss_4", "loss_12", "loss_24"}
    assert seen[-1]["loss_4"] < 0.7 * seen[0]["loss_4"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_an_accelerate_loop_learns_small_sizes(precision):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(0)
    encoder = nn.Linear(24, 24, bias=False)
    steps = accelerate.Accelerator(
        cpu=True, mixed_precision=precision, gradient_accumulation_steps=2
    )
    encoder, optimizer, batches = steps.prepare(
        encoder,
        torch.optim.Adam(encoder.parameters(), lr=1e-2),
        torch.utils.data.DataLoader([tuple(vectors())] * 2, batch_size=None),
    )
    seen = []
    for _ in range(40):
        for batch in batches:
            with steps.accumulate(encoder):
                with steps.autocast():
                    made = by_size(encoder, batch)
                steps.backward(made.loss)
                optimizer.step()
                optimizer.zero_grad()
        seen.append(made.by_dim())

    assert made.loss.dtype is torch.float32
    assert seen[-1][4] < 0.7 * seen[0][4]
