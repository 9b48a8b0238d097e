"""`classify` as a call and as a verb, on synthetic vectors and on texts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from tests.cascade.made import DIMS, WIDTH, labelled
from typer.testing import CliRunner

from matryo.cascade import Cascade, NestedClassifier, run
from matryo.cli import classify as verb
from matryo.core import InputError, Plan, Space, TooFewError
from matryo.encoders import Function
from matryo.jobs.classifying import classify
from matryo.transforms import Rotation, save_transform

BANKING = Path(__file__).parents[2] / ".." / "shared" / "data" / "banking77"
APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(verb.run)


@pytest.fixture
def arrays(tmp_path):
    train, train_labels = labelled(0, 600)
    test, test_labels = labelled(1, 800)
    path = tmp_path / "made.npz"
    np.savez(path, train=train, train_labels=train_labels, test=test, test_labels=test_labels)
    return path


@pytest.fixture
def texts(tmp_path):
    """Texts whose only word with a meaning is the first one, and an encoder that knows it."""
    folder = tmp_path / "texts"
    folder.mkdir()
    vectors = {}
    for part, seed, n in (("train", 0, 300), ("test", 1, 400)):
        with (folder / f"{part}.tsv").open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, delimiter="\t", lineterminator="\n")
            lines.writerow(["text", "label"])
            for i, (vector, label) in enumerate(zip(*labelled(seed, n), strict=True)):
                vectors[f"{part} {i}"] = vector
                lines.writerow([f"{part} {i}", label])

    def encode(some):
        return np.array([vectors[text] for text in some])

    return folder, Function(encode, Space("made", WIDTH, revision="1"), dims=DIMS)


def rows_of(document):
    return {row["name"]: row for row in document["results"]}


def test_the_document_says_what_the_plan_does(arrays):
    found = classify(arrays, floor=0.95, dims="2,4,8", synthetic=True)

    document = found.document
    cascade, full = rows_of(document)["cascade"], rows_of(document)["full width"]
    assert json.loads(json.dumps(document))["kind"] == "classify"
    assert document["data"]["origin"] == "synthetic"
    assert document["settings"]["dims"] == [2, 4, 8, WIDTH]
    assert tuple(cascade["dims"]) == found.plan.run.dims
    assert cascade["expected_dims"]["value"] < full["expected_dims"]["value"] == WIDTH
    assert cascade["certified"]
    assert document["split"] == {"ordering": 200, "certifying": 400, "reporting": 200}
    assert (
        "numbers on average keep 0.95 of the full-width accuracy" in document["verdict"]["headline"]
    )
    assert found.plan.promise.measure == "accuracy"


def test_texts_are_encoded_as_documents_of_one_space(texts):
    folder, words = texts

    found = classify(folder, floor=0.9, model=words, head="tied")

    assert found.plan.space == words.space
    assert found.classifier.head == "tied"
    assert found.document["data"]["train"] == 300


def test_a_transform_comes_before_the_heads_and_is_named_by_the_plan(arrays, tmp_path):
    vectors = np.load(arrays)
    rotation = Rotation().fit(vectors["train"])
    save_transform(rotation, tmp_path / "rotation.safetensors")

    found = classify(arrays, floor=0.9, transform=tmp_path / "rotation.safetensors")

    answers = run(found.plan, found.classifier, vectors["test"], transform=rotation)
    expected = Cascade(found.classifier, found.plan.run).predict(
        rotation.transform(vectors["test"])
    )
    assert found.plan.transform == rotation.digest == found.plan.space.document.map
    np.testing.assert_array_equal(answers.labels, expected)


def test_every_kind_of_promise_has_a_headline(arrays):
    expected = classify(arrays, kind="expected", measure="agreement@full", floor=0.95)
    share = classify(arrays, kind="share", measure="agreement@full", floor=0.95)

    assert "keep 0.95 of the full width's answers; " in expected.document["verdict"]["headline"]
    assert "answers, with 0.95 confidence; " in share.document["verdict"]["headline"]


def test_where_nothing_is_certified_the_plan_is_the_full_width(arrays):
    found = classify(arrays, floor=0.99, head="nearest_mean", dims="1")

    assert found.plan.run.dims == (WIDTH,)
    assert found.document["verdict"]["headline"].startswith("Stay at the full width")


def test_too_few_test_examples_are_refused_with_the_number(arrays):
    with pytest.raises(TooFewError, match="at least 5990 labelled examples are needed") as caught:
        classify(arrays, floor=0.999)

    assert caught.value.needed == 5990


def test_data_without_labels_are_refused(tmp_path):
    np.save(tmp_path / "vectors.npy", np.eye(4, dtype=np.float32))

    with pytest.raises(InputError, match="expected labelled data, got vectors"):
        classify(tmp_path / "vectors.npy")


class TestVerb:
    def invoke(self, *arguments):
        return CliRunner().invoke(APP, [str(one) for one in arguments], catch_exceptions=False)

    def test_a_table_for_people(self, arrays):
        done = self.invoke(arrays, "--floor", 0.95, "--no-cache")

        assert done.exit_code == 0
        assert "numbers on average keep 0.95" in done.stdout
        assert "800 test examples of 4 classes" in done.stdout
        assert all(len(line) <= 80 for line in done.stdout.splitlines())
        for name in ("cascade", "full width"):
            assert any(line.strip().startswith(name) for line in done.stdout.splitlines())

    def test_json_is_one_document(self, arrays):
        done = self.invoke(arrays, "--json", "--floor", 0.95, "--head", "tied", "--seed", 3,
                           "--dims", "4,8", "--signal", "probability", "--no-cache")  # fmt: skip

        document = json.loads(done.stdout)
        assert document["settings"] == {
            "dims": [4, 8, WIDTH], "head": "tied", "C": 10.0, "signal": "probability", "seed": 3,
        }  # fmt: skip
        assert rows_of(document).keys() == {"cascade", "fixed size", "full width"}

    def test_plan_and_heads_are_written_and_run_together(self, arrays, tmp_path):
        plan, heads = tmp_path / "plan.json", tmp_path / "heads.safetensors"

        self.invoke(arrays, "--floor", 0.95, "--out", plan, "--classifier", heads, "--results",
                    tmp_path / "all.json", "--no-cache")  # fmt: skip

        answers = run(Plan.load(plan), NestedClassifier.load(heads), labelled(2, 50)[0])
        assert answers.dims.mean() < WIDTH
        assert json.loads((tmp_path / "all.json").read_text("utf-8"))["kind"] == "classify"

    def test_a_folder_that_does_not_exist_is_refused_before_any_work(self, arrays, tmp_path):
        with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
            self.invoke(arrays, "--out", tmp_path / "nowhere" / "plan.json")


@pytest.mark.slow
@pytest.mark.skipif(not BANKING.is_dir(), reason="the Banking77 data are not there")
def test_banking77_is_classified_with_half_the_numbers():
    pytest.importorskip("wordllama")

    found = classify(BANKING, floor=0.99, head="tied")

    cascade, full = rows_of(found.document)["cascade"], rows_of(found.document)["full width"]
    assert cascade["expected_dims"]["value"] < 0.5 * full["expected_dims"]["value"]
    assert cascade["accuracy"]["value"] > full["accuracy"]["value"] - 0.01
