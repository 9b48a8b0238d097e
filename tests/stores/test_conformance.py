"""Every store of matryo against the suite of plug-in authors, and the suite against broken ones."""

from __future__ import annotations

import itertools
import subprocess
import sys
import unicodedata
from dataclasses import replace
from unittest import SkipTest

import numpy as np
import pytest

from matryo.core import (
    Capabilities,
    DimError,
    Funnel,
    Hits,
    InputError,
    Precision,
    UnknownNameError,
    UnsupportedError,
    check_ids,
    check_vectors,
)
from matryo.search import FunnelSearch
from matryo.stores import Index
from matryo.testing import store_checks

CHECKS = {check.name: check for check in store_checks()}
CODED = [precision for precision in Precision if precision is not Precision.FLOAT32]
FILTER_CHECKS = {
    "filters_by_fields",
    "filters_before_the_first_stage",
    "replaces_fields_by_upsert",
    "refuses_filters_that_do_not_fit_the_fields",
}


@pytest.fixture
def make_index(tmp_path):
    """Makes a factory of indexes, each in a folder of its own."""
    numbers = itertools.count()

    def factory_of(kind=Index):
        return lambda plan, fields: kind.create(
            tmp_path / str(next(numbers)), plan.space, plan, fields=fields
        )

    return factory_of


class MemoryStore:
    """A store of the fewest lines: rows in a dictionary, searched by `FunnelSearch`."""

    capabilities = Capabilities(frozenset(Precision), stages=9, filters=False, delete=True)

    def __init__(self, plan, _fields):
        self.plan, self.space, self.rows = plan, plan.space, {}

    def add(self, ids, vectors):
        ids, vectors = self.checked(ids, vectors)
        known = [name for name in ids if name in self.rows]
        if known:
            raise InputError(f"these ids are there already: {known}")
        self.rows |= dict(zip(ids, vectors, strict=True))

    def upsert(self, ids, vectors):
        ids, vectors = self.checked(ids, vectors)
        self.rows |= dict(zip(ids, vectors, strict=True))

    def delete(self, ids):
        unknown = [name for name in check_ids(ids) if name not in self.open_rows]
        if unknown:
            raise InputError(f"these ids are not there: {unknown}")
        for name in ids:
            del self.rows[name]

    def search(self, queries, *, k, funnel, where=None):
        if where is not None:
            raise UnsupportedError("this store cannot filter")
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        self.check(queries, None)
        names = self.ordered(self.open_rows)
        answers = [self.answer(np.asarray(each, np.float64), k, funnel, names) for each in queries]
        last = funnel.stages[-1]
        return Hits(
            [[names[row] for row in rows[:k]] for rows, _ in answers],
            [scores[:k] for _, scores in answers],
            last.dim,
            last.precision,
            [len(names) >= k for _ in queries],
        )

    def answer(self, query, k, funnel, names):
        if not names:
            return [], np.empty(0, np.float32)
        wide = Funnel(tuple(replace(each, keep=max(each.keep, k)) for each in funnel.stages))
        rows = np.stack([self.rows[name] for name in names])
        metric, scales = self.space.metric, self.plan.scales
        answer = FunnelSearch(rows, wide, metric=metric, scales=scales).search(query)
        return answer.rows, answer.scores

    def __len__(self):
        return len(self.open_rows)

    def close(self):
        self.rows = None

    @property
    def open_rows(self):
        if self.rows is None:
            raise InputError("this store was closed")
        return self.rows

    def ordered(self, names):
        return sorted(names)

    def checked(self, ids, vectors):
        ids, _ = check_ids(ids), self.open_rows
        if len(ids) != len(vectors):
            raise InputError(f"expected {len(ids)} vectors, got {len(vectors)}")
        self.check(vectors, ids)
        return ids, np.array(vectors, np.float32)

    def check(self, vectors, ids):
        if vectors.shape[1] != self.space.full_dim:
            raise DimError(f"expected {self.space.full_dim} numbers, got {vectors.shape[1]}")
        for dim in {self.space.full_dim, *(stage.dim for stage in self.plan.run.stages)}:
            check_vectors(vectors[:, :dim], ids=ids, allow_zero=self.space.metric != "cosine")


def left_out(check, factory):
    """Why a check was left out; None if it was not, and passed."""
    try:
        check(factory)
    except SkipTest as reason:
        return str(reason)
    return None


@pytest.mark.parametrize(
    "metric",
    ["cosine", *(pytest.param(other, marks=pytest.mark.slow) for other in ("dot", "l2"))],
)
@pytest.mark.parametrize("name", CHECKS)
def test_the_index_keeps_the_contract(name, metric, make_index):
    check = next(check for check in store_checks(metric=metric) if check.name == name)

    reason = left_out(check, make_index())

    assert reason is None or (metric != "cosine" and "codes keep only directions" in reason)


@pytest.mark.parametrize("name", CHECKS)
def test_a_store_in_memory_keeps_the_contract_and_is_closed_again(name):
    opened = []

    def factory(plan, fields):
        opened.append(MemoryStore(plan, fields))
        return opened[-1]

    reason = left_out(CHECKS[name], factory)

    if name in FILTER_CHECKS:
        assert reason == "the store says that it cannot filter"
    elif name == "refuses_another_space":
        assert reason.endswith("takes the space that vectors come from")
    else:
        assert reason is None
    assert opened
    assert all(store.rows is None for store in opened)


class OfAnotherSpace(MemoryStore):
    def __init__(self, plan, fields):
        super().__init__(plan, fields)
        self.space = replace(plan.space, model="my favourite")


class CompleteWhileEmpty(MemoryStore):
    def search(self, queries, *, k, funnel, where=None):
        hits = super().search(queries, k=k, funnel=funnel, where=where)
        return replace(hits, complete=[True] * len(queries))


class LateToFind(MemoryStore):
    """Rows are found once as many as a batch of its own have come."""

    def answer(self, query, k, funnel, names):
        return super().answer(query, k, funnel, names[: len(names) // 50 * 50])


class AddReplaces(MemoryStore):
    def add(self, ids, vectors):
        self.upsert(ids, vectors)


class AddsUntilItRefuses(MemoryStore):
    def add(self, ids, vectors):
        for name, vector in zip(*self.checked(ids, vectors), strict=True):
            super().add([name], vector[None])


class LastOfTwins(MemoryStore):
    """Takes the last of rows that come with one id."""

    def checked(self, ids, vectors):
        return super().checked(*self.without_twins(ids, vectors))

    def without_twins(self, ids, vectors):
        last = {name: place for place, name in enumerate(ids)}
        return list(last), vectors[list(last.values())]


class CutsToTheShorter(MemoryStore):
    def checked(self, ids, vectors):
        n = min(len(ids), len(vectors))
        return super().checked(ids[:n], vectors[:n])


class KeepsTheOld(MemoryStore):
    def upsert(self, ids, vectors):
        new = [place for place, name in enumerate(ids) if name not in self.open_rows]
        self.add([ids[place] for place in new], vectors[new])


class DeletesNothing(MemoryStore):
    def delete(self, ids):
        pass


class DeletesOnTheQuiet(MemoryStore):
    capabilities = replace(MemoryStore.capabilities, delete=False)


class DeletesWhatItKnows(MemoryStore):
    def delete(self, ids):
        super().delete([name for name in ids if name in self.open_rows])


class DeletesUntilItRefuses(MemoryStore):
    def delete(self, ids):
        for name in ids:
            super().delete([name])


class DropsTheDeadAtLast(MemoryStore):
    """Deleted rows take part in the search and are left out of its answer."""

    def __init__(self, plan, fields):
        super().__init__(plan, fields)
        self.dead = {}

    def delete(self, ids):
        before = dict(self.open_rows)
        super().delete(ids)
        self.dead |= {name: before[name] for name in ids}

    def answer(self, query, k, funnel, names):
        alive, self.rows = self.rows, self.rows | self.dead
        every = sorted(self.rows)
        rows, scores = super().answer(query, k, funnel, every)
        self.rows = alive
        kept = [place for place, row in enumerate(rows) if every[row] in alive]
        return [names.index(every[rows[place]]) for place in kept], scores[kept]


class Composes(MemoryStore):
    """One id for all ways to write an accent."""

    def checked(self, ids, vectors):
        composed = [unicodedata.normalize("NFC", name) for name in ids]
        return super().checked(composed, vectors)


class IntegersAsTexts(MemoryStore):
    def checked(self, ids, vectors):
        return super().checked([str(name) for name in ids], vectors)


class ReadsEverything(MemoryStore):
    """Runs the last stage alone."""

    def answer(self, query, k, funnel, names):
        return super().answer(query, k, Funnel(funnel.stages[-1:]), names)


class RawProducts(MemoryStore):
    """Scores whole vectors by their inner product, in whatever space."""

    def answer(self, query, k, funnel, names):
        rows, scores = super().answer(query, k, funnel, names)
        lengths = [np.linalg.norm(self.rows[names[row]]) for row in rows]
        return rows, (scores * lengths * np.linalg.norm(query)).astype(np.float32)


class CodesWithoutTheirScale(MemoryStore):
    def answer(self, query, k, funnel, names):
        rows, scores = super().answer(query, k, funnel, names)
        coded = funnel.stages[-1].precision not in (Precision.FLOAT32, Precision.FLOAT16)
        return rows, scores * np.float32(127 if coded else 1)


class HalfOfHalf(MemoryStore):
    """Claims float16 and reads the first half of it."""

    def answer(self, query, k, funnel, names):
        stages = tuple(
            replace(each, dim=each.dim // 2) if each.precision is Precision.FLOAT16 else each
            for each in funnel.stages
        )
        return super().answer(query, k, Funnel(stages), names)


class RunsWhatItDoesNotClaim(MemoryStore):
    capabilities = replace(MemoryStore.capabilities, precisions=frozenset({Precision.FLOAT32}))


class Distances(MemoryStore):
    """Lower is better."""

    def answer(self, query, k, funnel, names):
        rows, scores = super().answer(query, k, funnel, names)
        return rows, 1 - scores


class WholeByName(MemoryStore):
    def search(self, queries, *, k, funnel, where=None):
        hits = super().search(queries, k=k, funnel=funnel, where=where)
        return replace(hits, dim=self.space.full_dim)


class FirstComeFirstServed(MemoryStore):
    def ordered(self, names):
        return list(names)


class OrderOfUtf16(MemoryStore):
    def ordered(self, names):
        return sorted(names, key=lambda name: str(name).encode("utf-16-be"))


class NeverWider(MemoryStore):
    """Finds at most what the funnel keeps, however many are asked for."""

    def answer(self, query, k, funnel, names):  # noqa: ARG002
        return super().answer(query, 1, funnel, names)


class TakesAnyK(MemoryStore):
    def search(self, queries, *, k, funnel, where=None):
        return super().search(queries, k=max(k, 1), funnel=funnel, where=where)


class OneAnswerForAll(MemoryStore):
    def search(self, queries, *, k, funnel, where=None):
        same = np.repeat(queries[:1], len(queries), axis=0)
        return super().search(same, k=k, funnel=funnel, where=where)


class ReadsTheBuffer(MemoryStore):
    """Takes the memory of vectors to be in C order."""

    def checked(self, ids, vectors):
        whole = vectors if vectors.flags.c_contiguous else vectors.T.reshape(vectors.shape)
        return super().checked(ids, whole)


class ScalesInPlace(MemoryStore):
    def checked(self, ids, vectors):
        if vectors.flags.writeable:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) * 2
        return super().checked(ids, vectors)


class CutsWhatIsWider(MemoryStore):
    def checked(self, ids, vectors):
        return super().checked(ids, vectors[:, : self.space.full_dim])


class ForgetsItsSpace(MemoryStore):
    def add(self, ids, vectors, *, space=None):  # noqa: ARG002
        super().add(ids, vectors)


class ZerosPass(MemoryStore):
    def checked(self, ids, vectors):
        zero = ~vectors.any(axis=1)
        return super().checked(ids, np.where(zero[:, None], 1.0, vectors))


class NamesRows(MemoryStore):
    """Refuses bad vectors by their row, which means nothing to who gave the ids."""

    def check(self, vectors, ids):  # noqa: ARG002
        super().check(vectors, None)


class NeverCloses(MemoryStore):
    def close(self):
        pass


class NoneIsSmall(Index):
    """A row without a field is different from every value, and so is found by `!=`."""

    def search(self, queries, *, k, funnel, where=None):
        if where and where[1] == "!=":
            where = ("not", (where[0], "==", where[2]))
        return super().search(queries, k=k, funnel=funnel, where=where)


class FiltersAtLast(Index):
    """Finds rows first, and drops those that do not match."""

    def search(self, queries, *, k, funnel, where=None):
        hits = super().search(queries, k=k, funnel=funnel)
        matching = super().search(queries, k=max(len(self), 1), funnel=funnel, where=where)
        kept = [
            [place for place, name in enumerate(found) if name in right]
            for found, right in zip(hits.ids, matching.ids, strict=True)
        ]
        return replace(
            hits,
            ids=[[hits.ids[i][place] for place in places] for i, places in enumerate(kept)],
            scores=[hits.scores[i][places] for i, places in enumerate(kept)],
            complete=[len(places) == k for places in kept],
        )


class KeepsOldFields(Index):
    def upsert(self, ids, vectors, fields=None, *, space=None):
        known = [name for name in ids if name in self.ids()]
        before = self.get(known).fields if known else {}
        super().upsert(ids, vectors, {**before, **(fields or {})}, space=space)


class UnknownFieldsMatchAll(Index):
    def search(self, queries, *, k, funnel, where=None):
        try:
            return super().search(queries, k=k, funnel=funnel, where=where)
        except UnknownNameError:
            return super().search(queries, k=k, funnel=funnel)


class FiltersOnTheQuiet(MemoryStore):
    """Says that it cannot filter, and leaves a filter out of account."""

    def search(self, queries, *, k, funnel, where=None):  # noqa: ARG002
        return super().search(queries, k=k, funnel=funnel)


BROKEN = [
    (lambda *_: object(), "is_a_store_of_the_space_of_its_plan", "object lacks a part of Store"),
    (OfAnotherSpace, "is_a_store_of_the_space_of_its_plan", "sample @ 16, it says my favourite"),
    (CompleteWhileEmpty, "finds_nothing_while_empty", "an empty store cannot be complete"),
    (LateToFind, "finds_rows_once_add_returns", "the vector of 'doc 00' must find it"),
    (AddReplaces, "refuses_known_ids_and_changes_nothing", "InputError, but it passed"),
    (AddsUntilItRefuses, "refuses_known_ids_and_changes_nothing", "length went from 5 to 6"),
    (LastOfTwins, "refuses_ids_repeated_in_a_batch", "an id twice in one batch must be refused"),
    (CutsToTheShorter, "refuses_other_numbers_of_ids_and_vectors", "2 ids with 1 vectors must be"),
    (KeepsTheOld, "replaces_rows_by_upsert", "the vector of 'doc 02' must find it"),
    (DeletesNothing, "deletes_rows", "3 of 10 rows were deleted, length is 10"),
    (DeletesOnTheQuiet, "deletes_rows", "which the store says it cannot do, must be refused"),
    (DeletesWhatItKnows, "refuses_to_delete_unknown_ids", "unknown id among known ones must be"),
    (DeletesUntilItRefuses, "refuses_to_delete_unknown_ids", "length went from 5 to 4"),
    (DropsTheDeadAtLast, "answers_as_before_after_add_and_delete", "30 rows were added and delet"),
    (Composes, "gives_text_ids_back_unchanged", "all different, and must be kept"),
    (IntegersAsTexts, "gives_integer_ids_back_unchanged", "vector of 0 must find it, got '0'"),
    (ReadsEverything, "runs_float32_as_the_reference_does", "8:6,16:5: the reference finds"),
    (RawProducts, "runs_float32_as_the_reference_does", "in the reference, in the store"),
    (HalfOfHalf, "runs_float16_as_the_reference_does", "16@float16:5: the reference finds"),
    (CodesWithoutTheirScale, "runs_int8_as_the_reference_does", "in the reference, in the store"),
    *(
        (RunsWhatItDoesNotClaim, f"runs_{coded}_as_the_reference_does", "cannot run, must be refu")
        for coded in CODED
    ),
    (Distances, "gives_hits_best_first", "scores must not rise"),
    (WholeByName, "names_the_dim_and_precision_of_its_scores", "8:5 scores 8 .* say 16 and float"),
    (FirstComeFirstServed, "puts_equal_scores_in_the_order_of_text_ids", "smaller ids go first"),
    (OrderOfUtf16, "puts_equal_scores_in_the_order_of_text_ids", "smaller ids go first"),
    (FirstComeFirstServed, "puts_equal_scores_in_the_order_of_integer_ids", "integers by number"),
    (NeverWider, "finds_k_rows_or_all", "of 60 rows k=12 must find 12, got 5"),
    (CompleteWhileEmpty, "finds_k_rows_or_all", "with k=61 and 60 rows complete must be False"),
    (TakesAnyK, "refuses_k_below_1", "k=0 must be refused with InputError"),
    (OneAnswerForAll, "answers_a_batch_as_its_queries", "query 1 gets another answer in a batch"),
    (ReadsTheBuffer, "takes_vectors_in_every_layout", "differ only in their layout"),
    (ScalesInPlace, "takes_vectors_in_every_layout", "add changed the C-ordered vectors"),
    (CutsWhatIsWider, "refuses_another_width", "add of vectors of 32 numbers in a space of 16"),
    (ForgetsItsSpace, "refuses_another_space", "add with vectors of another space must be refu"),
    (ZerosPass, "refuses_vectors_that_cannot_be_scored", "with only zeros must be refused"),
    (NamesRows, "refuses_vectors_that_cannot_be_scored", r"must be \['the bad one'\], got \[1\]"),
    (NoneIsSmall, "filters_by_fields", r"\('year', '!=', 2000\) expected"),
    (FiltersOnTheQuiet, "filters_by_fields", "a filter, which the store says it cannot do, must"),
    (FiltersAtLast, "filters_before_the_first_stage", "3 rows match and k=3: however far"),
    (KeepsOldFields, "replaces_fields_by_upsert", r"with \('language', 'exists'\) expected \[\]"),
    (UnknownFieldsMatchAll, "refuses_filters_that_do_not_fit_the_fields", "UnknownNameError, but"),
    (NeverCloses, "refuses_everything_once_closed", "add of a store that was closed must be refu"),
]


@pytest.mark.parametrize(("kind", "name", "message"), BROKEN)
def test_the_suite_finds_a_store_that_breaks_a_rule(kind, name, message, make_index):
    index = isinstance(kind, type) and issubclass(kind, Index)

    with pytest.raises(AssertionError, match=message):
        CHECKS[name](make_index(kind) if index else kind)


def test_every_rule_is_broken_by_some_store():
    assert {name for _, name, _ in BROKEN} == set(CHECKS)


class OneStage(MemoryStore):
    """Runs one stage, keeps texts as ids, and deletes nothing."""

    capabilities = Capabilities(frozenset({Precision.FLOAT32}), 1, filters=False, delete=False)

    def __init__(self, plan, fields):
        stages = plan.run.stages
        if len(stages) > 1 or stages[0].precision is not Precision.FLOAT32:
            raise UnsupportedError("this store runs one float32 stage")
        super().__init__(plan, fields)

    def checked(self, ids, vectors):
        if any(isinstance(name, int) for name in ids):
            raise InputError("this store keeps texts as ids")
        return super().checked(ids, vectors)

    def delete(self, ids):  # noqa: ARG002
        raise UnsupportedError("this store cannot delete")


def test_rules_about_what_a_store_cannot_do_are_left_out_with_a_reason():
    answers = {name: left_out(check, OneStage) for name, check in CHECKS.items()}
    reasons = {name: reason for name, reason in answers.items() if reason is not None}

    assert reasons.keys() == FILTER_CHECKS | {
        "refuses_another_space",
        "deletes_rows",
        "refuses_to_delete_unknown_ids",
        "answers_as_before_after_add_and_delete",
        "gives_integer_ids_back_unchanged",
        "puts_equal_scores_in_the_order_of_integer_ids",
        *(f"runs_{precision}_as_the_reference_does" for precision in CODED),
    }
    assert reasons["deletes_rows"] == "the store says that it cannot delete"
    assert "this store runs one float32 stage" in reasons["runs_int8_as_the_reference_does"]


def test_an_unknown_metric_is_refused():
    with pytest.raises(InputError, match="metric must be one of cosine, dot, l2, got 'angle'"):
        store_checks(metric="angle")


def test_the_suite_needs_neither_hypothesis_nor_pytest():
    code = "import sys, matryo.testing; print({'hypothesis', 'pytest'} & set(sys.modules))"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "set()"
