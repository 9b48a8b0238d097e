"""Teachers: equal vectors have nothing to learn, others what a plain loss says."""

from __future__ import annotations

import pytest
import torch
from tests.training import plain
from tests.training.plain import assert_same, leaf
from torch.nn import functional

from matryo.core import DimError, InputError, TooFewError, VectorError
from matryo.training import nested_distillation, nested_vector_mse

DIMS = [2, 5, 12]

forms = pytest.mark.parametrize(
    ("target", "kind"), [(target, kind) for target in ("prefix", "full") for kind in ("mse", "kl")]
)


@pytest.mark.parametrize(
    ("target", "teacher_dim"),
    [("prefix", 12), ("prefix", 20), ("full", 4), ("full", 12), ("full", 20)],
)
@pytest.mark.parametrize("kind", ["mse", "kl"])
@pytest.mark.parametrize("chunk_rows", [3, 100])
def test_gradients_are_those_of_one_loss_per_size(target, kind, teacher_dim, chunk_rows):
    student, teacher = leaf(8, 12), leaf(8, teacher_dim, seed=4)

    assert_same(
        lambda: nested_distillation(
            student, teacher, DIMS, target=target, kind=kind, scale=7.0, chunk_rows=chunk_rows
        ),
        lambda: plain.distillation(
            student, teacher.detach(), DIMS, target=target, kind=kind, scale=7.0
        ),
        student,
    )
    assert teacher.grad is None


@forms
def test_rows_may_be_compared_with_candidates_of_their_own(target, kind):
    student, teacher = leaf(8, 12), leaf(8, 20, seed=4).detach()
    columns, known = leaf(11, 12, seed=5), leaf(11, 20, seed=6).detach()
    options = {"target": target, "kind": kind, "scale": 7.0, "candidates": (columns, known)}

    assert_same(
        lambda: nested_distillation(student, teacher, DIMS, chunk_rows=3, **options),
        lambda: plain.distillation(student, teacher, DIMS, **options),
        student,
        columns,
    )


@forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_rows", [5, None])
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(target, kind, dtype, chunk_rows):
    student = leaf(70, 48, dtype=dtype)

    made = nested_distillation(
        student, student.detach(), [7, 16, 48], target=target, kind=kind, chunk_rows=chunk_rows
    )

    assert made.by_dim()[48] == 0
    if target == "prefix":
        assert made.loss == 0
        made.loss.backward()
        assert student.grad.abs().max() < 1e-6


def test_vectors_are_scaled_on_both_sides():
    student, teacher = leaf(8, 12), leaf(8, 12, seed=4).detach()

    assert_same(
        lambda: nested_vector_mse(student, teacher, DIMS),
        lambda: sum(
            (2 - 2 * functional.cosine_similarity(student[:, :d], teacher[:, :d])).mean() / d
            for d in DIMS
        ),
        student,
    )
    assert nested_vector_mse(student, 3 * student, [12]).loss < 1e-30
    assert nested_vector_mse(student, student, DIMS).loss == 0


class TestRefusals:
    def test_another_number_of_rows(self):
        for loss in (nested_distillation, nested_vector_mse):
            with pytest.raises(InputError, match="for the same texts, got 8 and 7 rows"):
                loss(leaf(8, 12), leaf(7, 12), DIMS)

    def test_candidates_that_are_not_those_of_the_teacher(self):
        with pytest.raises(InputError, match="for the same texts, got 9 and 8 rows"):
            nested_distillation(
                leaf(4, 12), leaf(4, 12), DIMS, candidates=(leaf(9, 12), leaf(8, 12))
            )

    def test_a_single_candidate(self):
        with pytest.raises(TooFewError, match="need at least 2 candidates to differ, got 1"):
            nested_distillation(
                leaf(4, 12), leaf(4, 12), DIMS, candidates=(leaf(1, 12), leaf(1, 12))
            )

    def test_a_teacher_without_such_a_prefix(self):
        with pytest.raises(DimError, match=r"between 1 and 10 .* got 12"):
            nested_distillation(leaf(8, 12), leaf(8, 10), DIMS, target="prefix")
        with pytest.raises(InputError, match="of one width, got 12 and 10"):
            nested_vector_mse(leaf(8, 12), leaf(8, 10), DIMS)

    def test_a_teacher_with_a_row_of_zeros(self):
        teacher = leaf(8, 12).detach()
        teacher[6] = 0
        with pytest.raises(VectorError, match=r"teacher: 1 row has only zeros .*: 6"):
            nested_distillation(leaf(8, 12), teacher, DIMS)

    def test_too_few_rows_to_compare(self):
        with pytest.raises(TooFewError, match="at least 3 rows to differ, got 2"):
            nested_distillation(leaf(2, 12), leaf(2, 12), DIMS)

    def test_names_that_are_none(self):
        with pytest.raises(InputError, match='"prefix" or "full" and kind "mse" or "kl", got'):
            nested_distillation(leaf(8, 12), leaf(8, 12), DIMS, kind="l1")

    def test_a_scale_that_is_none(self):
        with pytest.raises(InputError, match="scale must be one finite number above 0, got -1"):
            nested_distillation(leaf(8, 12), leaf(8, 12), DIMS, kind="kl", scale=-1)
