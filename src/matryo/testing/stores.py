"""What every store must do, as checks that a plug-in's author runs over their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple
from unittest import SkipTest

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    METRICS,
    Capabilities,
    DimError,
    Funnel,
    Hits,
    InputError,
    Metric,
    Plan,
    Precision,
    Space,
    SpaceMismatchError,
    Stage,
    Store,
    UnknownNameError,
    UnsupportedError,
    VectorError,
)
from matryo.search import Answer, FunnelSearch, Level, check_level
from matryo.transforms import fit_scales, normalize, truncate

StoreFactory = Callable[[Plan, Mapping[str, type]], Store]

# Fields of rows that the checks of filters ask for.
SAMPLE_FIELDS: Mapping[str, type] = {"year": int, "language": str, "price": float, "open": bool}
_NO_FIELDS: Mapping[str, type] = {}

_DIM = 16
_N_ROWS = 60
_EXACT = Funnel.parse("16:5")
_FUNNEL = Funnel.parse("8:6,16:5")  # leaves out neighbors that reading everything would find
# How far scores may be from the reference: float16 may be scaled before or after it is rounded, and
# a store may round queries where it scores codes. Queries are chosen so that no shortlist ends in a
# gap smaller than the last of these, and so the ids must be the same.
_TOLERANCES = {Precision.FLOAT32: 1e-5, Precision.FLOAT16: 1e-3}
_CODED_TOLERANCE = 0.02
_CANDIDATES = 400  # queries among which those are sought that no stage decides by a hair
_ROUNDING = 1e-5  # between two answers of one store

# Empty, control characters, 10 kB, each plane, and texts that differ only by case, by blanks, or by
# how an accent is written.
_TEXT_IDS = (
    "",
    "\x00",
    "a\nb\t\x7f",
    "x" * 10_000,
    "大" * 3_400,
    *(f"plane {plane} {chr(plane * 0x10000 + 0xFF10)}" for plane in range(17)),
    "case",
    "CASE",
    "Case",
    " case",
    "case ",
    "\u00e9",
    "e\u0301",
    "\ufb01",
    "fi",
    "7",
    "07",
)
_INTEGER_IDS = (0, 1, -1, 7, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63))
# The last two change places where texts are compared in UTF-16.
_TIED_TEXTS = ["", "10", "9", "B", "Z", "a", "aa", "b", "é", "\uffee", "\U0001fa86"]
_TIED_INTEGERS = [-10, -9, 0, 9, 10, 100, 2**53, 2**53 + 1]


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """One rule. Call it with a factory of stores; it raises `AssertionError`.

    A rule about something that the store says it cannot do raises `unittest.SkipTest`, which pytest
    counts as skipped, with the reason.
    """

    name: str
    metric: Metric
    run: Callable[[_Maker], None]

    def __call__(self, factory: StoreFactory) -> None:
        """Hold the stores that the factory makes to the rule; each is closed again."""
        self.run(_Maker(factory, self.metric))

    def __str__(self) -> str:
        return self.name


def store_checks(*, metric: Metric = "cosine") -> list[StoreCheck]:
    """The rules of `matryo.core.Store`, for instance as the parameters of a pytest test.

        @pytest.mark.parametrize("check", store_checks(), ids=str)
        def test_my_store(check):
            check(lambda plan, fields: MyStore(plan))

    The factory gets a plan, with its space, its funnel and the int8 steps of its stages, and the
    names and types of fields that rows may have; it gives an empty open store, a new one whenever
    it is called. A plan that the store cannot run is refused with `UnsupportedError`. The sample is
    synthetic, 16 numbers wide, and the same every time. Answers are compared with those of
    `matryo.search.FunnelSearch`: the ids must be the same where the sample leaves no doubt about
    them, and scores may differ by 0.00001 in float32, 0.001 in float16 and 0.02 in other
    precisions.

    Args:
        metric: What scores two vectors in the spaces of the plans.

    Raises:
        InputError: no such metric.
    """
    if metric not in METRICS:
        raise InputError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    rules: list[tuple[str, Callable[[_Maker], None]]] = [
        ("is_a_store_of_the_space_of_its_plan", _is_a_store),
        ("finds_nothing_while_empty", _finds_nothing_while_empty),
        ("finds_rows_once_add_returns", _finds_rows_once_add_returns),
        ("refuses_known_ids_and_changes_nothing", _refuses_known_ids),
        ("refuses_ids_repeated_in_a_batch", _refuses_repeated_ids),
        ("refuses_other_numbers_of_ids_and_vectors", _refuses_other_numbers),
        ("replaces_rows_by_upsert", _replaces_rows),
        ("deletes_rows", _deletes_rows),
        ("refuses_to_delete_unknown_ids", _refuses_to_delete_unknown_ids),
        ("answers_as_before_after_add_and_delete", _answers_as_before),
        ("gives_text_ids_back_unchanged", _gives_text_ids_back),
        ("gives_integer_ids_back_unchanged", _gives_integer_ids_back),
        *(
            (f"runs_{precision}_as_the_reference_does", partial(_runs, precision))
            for precision in Precision
        ),
        ("gives_hits_best_first", _gives_hits_best_first),
        ("names_the_dim_and_precision_of_its_scores", _names_its_scores),
        ("puts_equal_scores_in_the_order_of_text_ids", partial(_orders_ties, _TIED_TEXTS)),
        ("puts_equal_scores_in_the_order_of_integer_ids", partial(_orders_ties, _TIED_INTEGERS)),
        ("finds_k_rows_or_all", _finds_k_rows_or_all),
        ("refuses_k_below_1", _refuses_k_below_1),
        ("answers_a_batch_as_its_queries", _answers_a_batch_as_its_queries),
        ("takes_vectors_in_every_layout", _takes_every_layout),
        ("refuses_another_width", _refuses_another_width),
        ("refuses_another_space", _refuses_another_space),
        ("refuses_vectors_that_cannot_be_scored", _refuses_bad_vectors),
        ("filters_by_fields", _filters_by_fields),
        ("filters_before_the_first_stage", _filters_before_the_first_stage),
        ("replaces_fields_by_upsert", _replaces_fields),
        ("refuses_filters_that_do_not_fit_the_fields", _refuses_filters),
        ("refuses_everything_once_closed", _refuses_everything_once_closed),
    ]
    return [StoreCheck(name, metric, run) for name, run in rules]


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes empty stores, to be used in a `with` statement, which closes them."""

    factory: StoreFactory
    metric: Metric

    def __call__(
        self, funnel: Funnel = _EXACT, fields: Mapping[str, type] = _NO_FIELDS
    ) -> closing[Store]:
        return closing(self.factory(self.plan(funnel), fields))

    def plan(self, funnel: Funnel) -> Plan:
        """A plan that runs a funnel, with int8 steps fitted on the sample."""
        dims = {stage.dim for stage in funnel.stages if stage.precision is Precision.INT8}
        scaled = self.metric == "cosine"
        scales = {dim: fit_scales(truncate(_sample(), dim, normalize=scaled)) for dim in dims}
        return Plan(Space("sample", _DIM, metric=self.metric), funnel, scales=scales)


def _is_a_store(make: _Maker) -> None:
    store = make.factory(make.plan(_EXACT), _NO_FIELDS)
    _require(isinstance(store, Store), f"{type(store).__name__} lacks a part of Store")
    with closing(store):
        can = store.capabilities
        _require(isinstance(can, Capabilities), f"capabilities must be Capabilities, got {can!r}")
        _require(
            Precision.FLOAT32 in can.precisions and can.stages >= 1,
            f"a store must run one float32 stage at least, but it says {can}",
        )
        expected, got = make.plan(_EXACT).space, store.space
        _require(
            got == expected,
            f"made for the space {expected.describe()}, it says {got.describe()}",
        )


def _finds_nothing_while_empty(make: _Maker) -> None:
    queries = _sample()[:2]
    with make() as store:
        for what in ("an empty store", "a store to which no rows were added"):
            hits = _search(store, queries, k=3)
            _require(len(store) == 0, f"{what} has length {len(store)}")
            _require(not any(hits.ids), f"{what} must find nothing, got {hits.ids}")
            _require(
                list(hits.complete) == [False, False],
                f"{what} cannot be complete, got {hits.complete}",
            )
            store.add([], np.empty((0, _DIM), np.float32))


def _finds_rows_once_add_returns(make: _Maker) -> None:
    ids, rows = _ids(), _unit_sample()
    with make() as store:
        for start in range(0, _N_ROWS, 20):
            part = slice(start, start + 20)
            store.add(ids[part], rows[part])
            _require(
                len(store) == start + 20, f"{start + 20} rows were added, length is {len(store)}"
            )
            _require_found(store, ids[: start + 20], rows[: start + 20])


def _refuses_known_ids(make: _Maker) -> None:
    ids, rows = _ids(), _sample()
    with make() as store:
        store.add(ids[:5], rows[:5])
        for batch in ([ids[3]], ["new", ids[3]], [ids[3], "new"]):
            error = _require_refused(
                store,
                partial(store.add, batch, rows[40 : 40 + len(batch)]),
                InputError,
                f"add of {batch}, of which {ids[3]!r} is there,",
            )
            _require(ids[3] in str(error), f"the refusal must name the id {ids[3]!r}, got: {error}")


def _refuses_repeated_ids(make: _Maker) -> None:
    rows = _sample()
    with make() as store:
        store.add(["kept"], rows[:1])
        for write in (store.add, store.upsert):
            _require_refused(
                store,
                partial(write, ["twice", "once", "twice"], rows[1:4]),
                InputError,
                f"{write.__name__} with an id twice in one batch",
            )


def _refuses_other_numbers(make: _Maker) -> None:
    rows = _sample()
    with make() as store:
        store.add(["kept"], rows[:1])
        for write in (store.add, store.upsert):
            for n_vectors in (1, 3):
                _require_refused(
                    store,
                    partial(write, ["one", "two"], rows[1 : 1 + n_vectors]),
                    InputError,
                    f"{write.__name__} of 2 ids with {n_vectors} vectors",
                )


def _replaces_rows(make: _Maker) -> None:
    ids, rows = _ids(), _unit_sample()
    with make() as store:
        store.add(ids[:10], rows[:10])
        store.upsert([ids[2], "new"], rows[20:22])
        _require(len(store) == 11, f"10 rows and a new one are 11, length is {len(store)}")
        there = [*ids[:2], *ids[3:10], ids[2], "new"]
        _require_found(store, there, np.concatenate([rows[:2], rows[3:10], rows[20:22]]))
        hits = _search(store, rows[2:3], k=11)
        _require(
            sorted(hits.ids[0]) == sorted(there),
            f"after an upsert every id must be found once, got {sorted(hits.ids[0])}",
        )


def _deletes_rows(make: _Maker) -> None:
    ids, rows = _ids(), _unit_sample()
    _leave_out_unless_it_deletes(make)
    with make() as store:
        store.add(ids[:10], rows[:10])
        store.delete(ids[3:6])
        left = [*ids[:3], *ids[6:10]]
        _require(len(store) == 7, f"3 of 10 rows were deleted, length is {len(store)}")
        for hits in (_search(store, rows[3:6], k=7), _search(store, rows[3:6], k=10)):
            for found in hits.ids:
                _require(
                    sorted(found) == left,
                    f"after a delete the rows {left} must be found, got {sorted(found)}",
                )
        store.add(ids[3:6], rows[3:6])
        _require_found(store, ids[:10], rows[:10])
        store.delete(ids[:10])
        _require(len(store) == 0, f"all rows were deleted, length is {len(store)}")
        hits = _search(store, rows[:1], k=1)
        _require(not hits.ids[0], f"all rows were deleted, but {hits.ids[0]} is found")


def _refuses_to_delete_unknown_ids(make: _Maker) -> None:
    ids, rows = _ids(), _sample()
    _leave_out_unless_it_deletes(make)
    with make() as store:
        store.add(ids[:5], rows[:5])
        error = _require_refused(
            store,
            lambda: store.delete([ids[0], "unknown", ids[1]]),
            InputError,
            "delete of an unknown id among known ones",
        )
        _require("unknown" in str(error), f"the refusal must name the id 'unknown', got: {error}")


def _answers_as_before(make: _Maker) -> None:
    ids, rows, queries = _ids(), _sample(), _queries(10)
    _leave_out_unless_it_deletes(make)
    funnel = _widest(make)
    # nearer to the queries than all others, and enough of them to fill every shortlist
    near = np.tile(queries, (3, 1))
    with make(funnel) as store:
        store.add(ids, rows)
        before = _search(store, queries, k=5, funnel=funnel)
        others = [f"near {number}" for number in range(len(near))]
        store.add(others, near)
        store.delete(others)
        after = _search(store, queries, k=5, funnel=funnel)
        _require_same(before, after, f"after {len(near)} rows were added and deleted")
        store.upsert(ids[:5], near[:5])
        store.upsert(ids[:5], rows[:5])
        after = _search(store, queries, k=5, funnel=funnel)
        _require_same(before, after, "after rows were replaced and replaced back")


def _gives_text_ids_back(make: _Maker) -> None:
    with make() as store:
        _require_ids_kept(store, _TEXT_IDS)


def _gives_integer_ids_back(make: _Maker) -> None:
    _leave_out_unless_it_takes_integers(make)
    with make() as store:
        _require_ids_kept(store, _INTEGER_IDS)


def _runs(precision: Precision, make: _Maker) -> None:
    try:
        check_level(Level(_DIM, precision), make.metric)
    except UnsupportedError as error:
        raise SkipTest(str(error)) from error
    one = Funnel((Stage(_DIM, 5, precision),))
    two = Funnel((Stage(8, 6, precision), Stage(_DIM, 5)))
    _require_run_as_reference(make, one, precision)
    if _widest(make) is _FUNNEL:
        _require_run_as_reference(make, two, precision)


def _gives_hits_best_first(make: _Maker) -> None:
    ids, rows = _ids(), _unit_sample()
    with make() as store:
        store.add([*ids, "itself", "opposite"], np.concatenate([rows, rows[:1], -rows[:1]]))
        hits = _search(store, rows[:1], k=_N_ROWS + 2)
        found, scores = hits.ids[0], hits.scores[0]
        _require(bool((np.diff(scores) <= 0).all()), f"scores must not rise, got {scores}")
        _require(
            set(found[:2]) == {ids[0], "itself"},
            f"a vector must find itself first, as higher scores are better, got {found[:2]}",
        )
        _require(found[-1] == "opposite", f"its opposite must come last, got {found[-1]!r}")


def _names_its_scores(make: _Maker) -> None:
    for funnel in dict.fromkeys((_EXACT, Funnel.parse("8:5"), _widest(make))):
        with make(funnel) as store:
            store.add(_ids(), _sample())
            hits = _search(store, _queries(1), k=5, funnel=funnel)
            last = funnel.stages[-1]
            _require(
                (hits.dim, hits.precision) == (last.dim, last.precision),
                f"the last stage of {funnel} scores {last.dim} numbers as {last.precision}, the "
                f"hits say {hits.dim} and {hits.precision}",
            )


def _orders_ties(ids: Sequence[Any], make: _Maker) -> None:
    if isinstance(ids[0], int):
        _leave_out_unless_it_takes_integers(make)
    mixed = [ids[place] for place in np.random.default_rng(3).permutation(len(ids))]
    row = _unit_sample()[:1]
    with make() as store:
        for part in (mixed[::2], mixed[1::2]):
            store.add(part, np.repeat(row, len(part), axis=0))
        for k in (len(ids), 5):
            found = _search(store, row, k=k).ids[0]
            _require(
                list(found) == list(ids[:k]),
                f"of equal scores the smaller ids go first (integers by number, texts by code "
                f"point): for k={k} expected {ids[:k]}, got {found}",
            )


def _finds_k_rows_or_all(make: _Maker) -> None:
    ids, rows, query = _ids(), _sample(), _queries(1)
    funnel = _widest(make)
    with make(funnel) as store:
        store.add(ids, rows)
        few = _search(store, query, k=2, funnel=funnel)
        five = _search(store, query, k=5, funnel=funnel)
        _require(
            few.ids[0] == five.ids[0][:2], f"k=2 must cut the answer {five.ids[0]}, got {few.ids}"
        )
        # beyond what the funnel keeps, all that there are, and more than there are
        for k in (2, 5, 12, _N_ROWS, _N_ROWS + 1, 1000):
            hits = _search(store, query, k=k, funnel=funnel)
            expected = min(k, _N_ROWS)
            _require(
                len(hits.ids[0]) == expected,
                f"of {_N_ROWS} rows k={k} must find {expected}, got {len(hits.ids[0])}",
            )
            _require(
                bool(hits.complete[0]) == (k <= _N_ROWS),
                f"with k={k} and {_N_ROWS} rows complete must be {k <= _N_ROWS}, got "
                f"{hits.complete[0]}",
            )


def _refuses_k_below_1(make: _Maker) -> None:
    with make() as store:
        store.add(_ids(), _sample())
        for k in (0, -1):
            _require_raised(partial(_search, store, _queries(1), k=k), InputError, f"k={k}")


def _answers_a_batch_as_its_queries(make: _Maker) -> None:
    funnel, queries = _widest(make), _queries(12)
    with make(funnel) as store:
        store.add(_ids(), _sample())
        together = _search(store, queries, k=5, funnel=funnel)
        alone = [_search(store, query[None], k=5, funnel=funnel) for query in queries]
        joined = Hits(
            [hits.ids[0] for hits in alone],
            [hits.scores[0] for hits in alone],
            together.dim,
            together.precision,
            [hits.complete[0] for hits in alone],
        )
        _require_same(joined, together, "in a batch")
        _search(store, queries[:0], k=5, funnel=funnel)


def _takes_every_layout(make: _Maker) -> None:
    # numbers that float16 can hold, so that all types hold the same ones
    rows = _unit_sample()[:6].astype(np.float16).astype(np.float32)
    layouts = _layouts(rows)
    with make() as store:
        for layout, given in layouts.items():
            before = given.copy()
            store.add([f"{row} {layout}" for row in range(len(rows))], given)
            _require(bool(np.array_equal(given, before)), f"add changed the {layout} vectors given")
        plain = _search(store, rows, k=len(layouts))
        for row, (found, scores) in enumerate(zip(plain.ids, plain.scores, strict=True)):
            expected = sorted(f"{row} {layout}" for layout in layouts)
            _require(
                sorted(map(str, found)) == expected and bool(np.ptp(scores) <= _ROUNDING),
                f"vectors that differ only in their layout must be found with equal scores, "
                f"expected {expected}, got {found} with {scores}",
            )
        for layout, given in layouts.items():
            hits = _search(store, given, k=len(layouts))
            _require_same(plain, hits, f"for {layout} queries")


def _refuses_another_width(make: _Maker) -> None:
    ids, rows = _ids(), _sample()
    with make() as store:
        store.add(ids[:5], rows[:5])
        for other in (rows[5:7, :-1], np.hstack([rows[5:7], rows[5:7]])):
            what = f"vectors of {other.shape[1]} numbers in a space of {_DIM}"
            for write in (store.add, store.upsert):
                _require_refused(
                    store,
                    partial(write, ["x", "y"], other),
                    DimError,
                    f"{write.__name__} of {what}",
                )
            _require_raised(partial(_search, store, other, k=1), DimError, f"search with {what}")


def _refuses_another_space(make: _Maker) -> None:
    rows = _sample()
    own = make.plan(_EXACT).space
    other = replace(own, model="another")
    with make() as store:
        calls: dict[str, Callable[..., Any]] = {
            "add": partial(store.add, ["x"], rows[1:2]),
            "upsert": partial(store.upsert, ["y"], rows[2:3]),
            "search": partial(_search, store, rows[:1], k=1),
        }
        asked = [name for name in calls if "space" in _parameters(getattr(store, name))]
        if not asked:
            raise SkipTest("none of add, upsert and search takes the space that vectors come from")
        store.add(["kept"], rows[:1])
        for name in asked:
            _require_refused(
                store,
                partial(calls[name], space=other),
                SpaceMismatchError,
                f"{name} with vectors of another space",
            )
            calls[name](space=own)


def _refuses_bad_vectors(make: _Maker) -> None:
    funnel = _widest(make)
    rows = _sample()[:3]
    faults: dict[str, tuple[slice, float]] = {
        "NaN": (slice(3, 4), np.nan),
        "infinity": (slice(3, 4), np.inf),
        "minus infinity": (slice(9, 10), -np.inf),
    }
    if make.metric == "cosine":
        faults["only zeros"] = (slice(None), 0.0)
        faults["only zeros in the first stage"] = (slice(funnel.stages[0].dim), 0.0)
    with make(funnel) as store:
        store.add(["kept"], _sample()[-1:])
        for fault, (where, number) in faults.items():
            bad = rows.copy()
            bad[1, where] = number
            for write in (store.add, store.upsert):
                what = f"{write.__name__} of a vector with {fault}"
                call = partial(write, ["first", "the bad one", "last"], bad)
                error = _require_refused(store, call, VectorError, what, funnel)
                _require(
                    list(getattr(error, "ids", ())) == ["the bad one"],
                    f"{what}: `ids` of the error must be ['the bad one'], got "
                    f"{getattr(error, 'ids', None)}",
                )
            search = partial(_search, store, bad, k=1, funnel=funnel)
            _require_raised(search, VectorError, f"search with a query with {fault}")


_Record = Mapping[str, Any]
_RECORDS: tuple[_Record, ...] = (
    {"year": 1999, "language": "en", "price": 1.5, "open": True},
    {"year": 2000, "language": "de", "price": -2.0, "open": False},
    {"year": 2001, "language": "en", "price": 0.0, "open": False},
    {"year": 2000, "language": "", "price": 1e300, "open": True},
    {"year": -5, "language": "Größe, 大きさ", "price": None, "open": True},
    {"year": None, "language": "EN", "price": 1.5, "open": None},
    {"year": 2**53 + 1, "language": None, "price": 0.1, "open": True},
    {"year": 0, "language": "en", "price": 2.5, "open": None},
    {"year": None, "language": None, "price": None, "open": None},
)
_FILTERS: tuple[tuple[Any, Callable[[_Record], bool]], ...] = (
    (("year", "==", 2000), lambda row: row["year"] == 2000),
    (("year", "==", 1234), lambda row: row["year"] == 1234),
    (("year", "==", 2**53 + 1), lambda row: row["year"] == 2**53 + 1),
    (("year", "!=", 2000), lambda row: row["year"] not in (None, 2000)),
    (("language", "==", "en"), lambda row: row["language"] == "en"),
    (("language", "==", ""), lambda row: row["language"] == ""),
    (("language", "==", "Größe, 大きさ"), lambda row: row["language"] == "Größe, 大きさ"),
    (("open", "==", False), lambda row: row["open"] is False),
    (("price", "==", 1.5), lambda row: row["price"] == 1.5),
    (("year", ">=", 2000), lambda row: row["year"] is not None and row["year"] >= 2000),
    (("year", ">", 2000), lambda row: row["year"] is not None and row["year"] > 2000),
    (("year", "<", 0), lambda row: row["year"] is not None and row["year"] < 0),
    (("price", "<=", 1.5), lambda row: row["price"] is not None and row["price"] <= 1.5),
    (("language", "in", ["de", "en"]), lambda row: row["language"] in ("de", "en")),
    (("year", "in", [0, 1999, 7]), lambda row: row["year"] in (0, 1999)),
    (("year", "in", []), lambda row: False),  # noqa: ARG005
    (("price", "exists"), lambda row: row["price"] is not None),
    (("not", ("open", "exists")), lambda row: row["open"] is None),
    (("not", ("year", "==", 2000)), lambda row: row["year"] != 2000),
    (
        ("and", ("year", ">=", 0), ("year", "<", 2001), ("language", "==", "en")),
        lambda row: row["language"] == "en" and row["year"] in (1999, 0),
    ),
    (
        ("or", ("open", "==", False), ("price", ">", 2.0)),
        lambda row: row["open"] is False or (row["price"] or 0) > 2,
    ),
    (
        ["not", ["or", ["language", "in", ["en", "EN"]], ["not", ["price", "exists"]]]],
        lambda row: row["language"] not in ("en", "EN") and row["price"] is not None,
    ),
)


def _filters_by_fields(make: _Maker) -> None:
    _leave_out_unless_it_filters(make)
    ids, rows = _ids()[: len(_RECORDS)], _sample()[: len(_RECORDS)]
    with make(fields=SAMPLE_FIELDS) as store:
        _add(store, ids, rows, _RECORDS)
        for where, matches in _FILTERS:
            expected = [name for name, row in zip(ids, _RECORDS, strict=True) if matches(row)]
            hits = _search(store, _queries(2), k=len(ids), where=where)
            for found, complete in zip(hits.ids, hits.complete, strict=True):
                _require(
                    sorted(found) == expected,
                    f"of the rows with {where} expected {expected}, got {sorted(found)}",
                )
                _require(
                    not complete,
                    f"{len(ids)} rows were asked for and {len(found)} match {where}: complete "
                    "must be False",
                )


def _filters_before_the_first_stage(make: _Maker) -> None:
    _leave_out_unless_it_filters(make)
    funnel = _widest(make)
    ids, rows, queries = _ids(), _sample(), _queries(5)
    with make(funnel, SAMPLE_FIELDS) as store:
        _add(store, ids, rows, [{"year": number} for number in range(_N_ROWS)])
        for query in queries:
            # those that match are the last of all
            every = FunnelSearch(rows, Funnel.parse("16:60"), metric=make.metric)
            places = sorted(every.search(query).rows[-3:].tolist())
            hits = _search(store, query[None], k=3, funnel=funnel, where=("year", "in", places))
            expected = [ids[place] for place in places]
            _require(
                sorted(hits.ids[0]) == expected and bool(hits.complete[0]),
                f"3 rows match and k=3: however far they are from the query, expected {expected} "
                f"and complete, got {sorted(hits.ids[0])} and complete={hits.complete[0]}",
            )


def _replaces_fields(make: _Maker) -> None:
    _leave_out_unless_it_filters(make)
    rows = _sample()
    with make(fields=SAMPLE_FIELDS) as store:
        _add(store, ["a", "b"], rows[:2], [{"year": 1, "language": "en"}, {"year": 1}])
        upsert: Any = store.upsert
        upsert(["a"], rows[2:3], fields={"year": [2]})
        for where, expected in (
            (("year", "==", 1), ["b"]),
            (("year", "==", 2), ["a"]),
            (("language", "exists"), []),
        ):
            found = _search(store, rows[:1], k=2, where=where).ids[0]
            _require(
                sorted(found) == expected,
                f"an upsert replaces a row with all its fields: with {where} expected {expected}, "
                f"got {found}",
            )


def _refuses_filters(make: _Maker) -> None:
    _leave_out_unless_it_filters(make)
    rows = _sample()
    with make(fields=SAMPLE_FIELDS) as store:
        _add(store, ["a"], rows[:1], [{"year": 2000}])
        add: Any = store.add
        _require_refused(
            store,
            lambda: add(["b"], rows[1:2], fields={"yaer": [1]}),
            UnknownNameError,
            "add with the field 'yaer', which the store does not have,",
        )
        refusals: tuple[tuple[Any, type[Exception]], ...] = (
            (("yaer", "==", 2000), UnknownNameError),
            (("not", ("yaer", "exists")), UnknownNameError),
            (("year", "==", "2000"), InputError),
            (("year", "~", 2000), InputError),
            (("year",), InputError),
            ("year == 2000", InputError),
        )
        for where, kind in refusals:
            search = partial(_search, store, rows[:1], k=1, where=where)
            _require_raised(search, kind, f"the filter {where!r}")


def _refuses_everything_once_closed(make: _Maker) -> None:
    rows = _sample()
    with make() as store:
        store.add(["a"], rows[:1])
        deletes = store.capabilities.delete
        store.close()
        calls: dict[str, Callable[[], object]] = {
            "add": lambda: store.add(["b"], rows[1:2]),
            "upsert": lambda: store.upsert(["a"], rows[1:2]),
            "search": lambda: _search(store, rows[:1], k=1),
            "len": lambda: len(store),
        }
        if deletes:
            calls["delete"] = lambda: store.delete(["a"])
        for name, call in calls.items():
            _require_raised(call, InputError, f"{name} of a store that was closed")


def _sample() -> NDArray[np.float32]:
    """`(60, 16)` float32 rows of different lengths, whose first numbers say most."""
    return _made(0, _N_ROWS)


def _unit_sample() -> NDArray[np.float32]:
    """The sample, scaled to length 1, so that every row scores best against itself."""
    return normalize(_sample())


def _queries(n: int) -> NDArray[np.float32]:
    return _made(1, n)


def _made(seed: int, n: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((n, _DIM)) * 0.9 ** np.arange(_DIM)
    lengths = rng.uniform(0.5, 1.5, (n, 1))
    return (normalize(numbers) * lengths).astype(np.float32)


def _ids() -> list[str]:
    return [f"doc {number:02d}" for number in range(_N_ROWS)]


def _layouts(rows: NDArray[np.float32]) -> dict[str, NDArray[np.floating]]:
    """The same vectors, as they may lie in memory."""
    fixed = rows.copy()
    fixed.flags.writeable = False
    return {
        "C-ordered": rows.copy(),
        "Fortran-ordered": np.asfortranarray(rows),
        "non-contiguous": np.repeat(rows, 2, axis=1)[:, ::2],
        "reversed": rows[::-1].copy()[::-1],
        "read-only": fixed,
        "float16": rows.astype(np.float16),
        "float64": rows.astype(np.float64),
    }


def _widest(make: _Maker) -> Funnel:
    """Two stages where the store can run them, one where it cannot."""
    with make() as store:
        return _FUNNEL if store.capabilities.stages >= 2 else _EXACT


def _search(
    store: Store,
    queries: NDArray[np.floating],
    *,
    k: int,
    funnel: Funnel = _EXACT,
    where: object = None,
    **more: Any,
) -> Hits:
    """The hits of a search, one answer per query; a filter is named only where there is one."""
    search: Any = store.search
    if where is not None:
        more["where"] = where
    hits = search(queries, k=k, funnel=funnel, **more)
    if not isinstance(hits, Hits):
        raise AssertionError(f"search must give Hits, got {type(hits).__name__}")
    sizes = [len(hits.ids), len(hits.scores), len(hits.complete)]
    _require(
        sizes == [len(queries)] * 3,
        f"{len(queries)} queries must get as many answers, got {sizes[0]} lists of ids, {sizes[1]} "
        f"of scores, and {sizes[2]} times complete",
    )
    for found, scores in zip(hits.ids, hits.scores, strict=True):
        _require(
            isinstance(scores, np.ndarray) and scores.dtype == np.float32,
            f"the scores of a query must be a float32 array, got {scores!r}",
        )
        _require(
            len(found) == len(scores) == len(set(found)),
            f"expected one score per id and every id once, got {len(found)} ids, "
            f"{len(set(found))} of them different, and {len(scores)} scores",
        )
    return hits


def _add(
    store: Store, ids: list[str], rows: NDArray[np.float32], records: Sequence[_Record]
) -> None:
    """Add rows with the fields that some record names."""
    add: Any = store.add
    names = [name for name in SAMPLE_FIELDS if any(name in record for record in records)]
    add(ids, rows, fields={name: [row.get(name) for row in records] for name in names})


def _parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _leave_out_unless_it_deletes(make: _Maker) -> None:
    with make() as store:
        if store.capabilities.delete:
            return
        store.add(["a"], _sample()[:1])
        what = "delete, which the store says it cannot do,"
        _require_raised(lambda: store.delete(["a"]), UnsupportedError, what)
    raise SkipTest("the store says that it cannot delete")


def _leave_out_unless_it_filters(make: _Maker) -> None:
    with make() as store:
        if not store.capabilities.filters:
            store.add(["a"], _sample()[:1])
            search = partial(_search, store, _sample()[:1], k=1, where=("year", "==", 2000))
            what = "a filter, which the store says it cannot do,"
            _require_raised(search, UnsupportedError, what)
            raise SkipTest("the store says that it cannot filter")
        if "fields" not in _parameters(store.add):
            raise SkipTest("add takes no fields, so there is nothing to filter by")


def _leave_out_unless_it_takes_integers(make: _Maker) -> None:
    with make() as store:
        try:
            store.add([1, 2], _sample()[:2])
        except (InputError, UnsupportedError) as error:
            raise SkipTest(f"the store takes no integers as ids: {error}") from error


def _require_run_as_reference(make: _Maker, funnel: Funnel, precision: Precision) -> None:
    ids, rows = _ids(), _sample()
    try:
        made = make(funnel)
    except UnsupportedError as error:
        raise SkipTest(f"the store cannot be made for {funnel}: {error}") from error
    with made as store:
        store.add(ids[:45], rows[:45])
        store.add(ids[45:], rows[45:])
        cases = _clear_cases(rows, make.plan(funnel), funnel)
        queries = np.stack([case.query for case in cases])
        search = partial(_search, store, queries, k=5, funnel=funnel)
        if precision not in store.capabilities.precisions:
            _require_raised(search, UnsupportedError, f"{funnel}, which the store cannot run,")
            raise SkipTest(f"the store says that it cannot run {precision}")
        hits = search()
        allowed = _TOLERANCES.get(funnel.stages[-1].precision, _CODED_TOLERANCE)
        for number, case in enumerate(cases):
            expected = {
                ids[row]: float(score)
                for row, score in zip(case.answer.rows, case.answer.scores, strict=True)
            }
            found: dict[str | int, float] = dict(
                zip(hits.ids[number], hits.scores[number].tolist(), strict=True)
            )
            _require(
                found.keys() == expected.keys(),
                f"{funnel}: the reference finds {list(expected)}, the store {list(found)}",
            )
            worst = max(expected, key=lambda name: abs(found[name] - expected[name]))
            _require(
                abs(found[worst] - expected[worst]) <= allowed,
                f"{funnel}: {worst!r} scores {expected[worst]:.6f} in the reference, in the store "
                f"{found[worst]:.6f}",
            )
            _require(bool(hits.complete[number]), f"{funnel}: 5 rows were found, yet not complete")


class _Case(NamedTuple):
    """A query, and what the reference finds."""

    query: NDArray[np.float32]
    answer: Answer


def _clear_cases(rows: NDArray[np.float32], plan: Plan, funnel: Funnel) -> list[_Case]:
    """Up to twenty queries for which no stage of the reference decides by a hair."""
    metric, scales, stages = plan.space.metric, plan.scales, funnel.stages
    reference = FunnelSearch(rows, funnel, metric=metric, scales=scales)
    one_more = [
        FunnelSearch(
            rows,
            Funnel((*stages[:number], replace(stage, keep=stage.keep + 1))),
            metric=metric,
            scales=scales,
        )
        for number, stage in enumerate(stages)
    ]
    cases = []
    for query in _queries(_CANDIDATES):
        ends = [search.search(query).scores[-2:] for search in one_more]
        if all(kept - dropped > _CODED_TOLERANCE for kept, dropped in ends):
            cases.append(_Case(query, reference.search(query)))
    return cases[:20]


def _require_found(
    store: Store, ids: Sequence[str] | Sequence[int], rows: NDArray[np.float32]
) -> None:
    """Every row of length 1 finds itself."""
    hits = _search(store, rows, k=1)
    for name, found in zip(ids, hits.ids, strict=True):
        _require(
            list(found) == [name],
            f"the vector of {_shown(name)} must find it, got {', '.join(map(_shown, found))}",
        )


def _require_ids_kept(store: Store, ids: Sequence[Any]) -> None:
    rows = _unit_sample()[: len(ids)]
    try:
        store.add(list(ids), rows)
    except InputError as error:
        raise AssertionError(
            f"the ids {_few(ids)} are all different, and must be kept, got: {error}"
        ) from error
    _require(len(store) == len(ids), f"{len(ids)} ids were added, length is {len(store)}")
    _require_found(store, ids, rows)
    for found in _search(store, rows, k=1).ids:
        kind = type(ids[0])
        _require(
            type(found[0]) is kind, f"ids must come back as {kind.__name__}, got {type(found[0])}"
        )
    if store.capabilities.delete:
        store.delete(list(ids[::2]))
        _require_found(store, ids[1::2], rows[1::2])
    store.upsert(list(ids), rows)
    _require(
        len(store) == len(ids), f"an upsert of the same {len(ids)} ids gave length {len(store)}"
    )


def _require_refused(
    store: Store,
    call: Callable[[], object],
    kind: type[Exception],
    what: str,
    funnel: Funnel = _EXACT,
) -> Exception:
    """The error of a call that must be refused and change nothing."""
    queries, k = _queries(3), _N_ROWS
    n_rows, before = len(store), _search(store, queries, k=k, funnel=funnel)
    error = _require_raised(call, kind, what)
    _require(
        len(store) == n_rows,
        f"{what} was refused, but the length went from {n_rows} to {len(store)}",
    )
    after = _search(store, queries, k=k, funnel=funnel)
    _require_same(before, after, f"after {what} was refused")
    return error


def _require_raised(call: Callable[[], object], kind: type[Exception], what: str) -> Exception:
    try:
        call()
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(
            f"{what} must be refused with {kind.__name__}, got {type(error).__name__}: {error}"
        ) from error
    raise AssertionError(f"{what} must be refused with {kind.__name__}, but it passed")


def _require_same(one: Hits, other: Hits, when: str) -> None:
    for number in range(len(one.ids)):
        same = (
            list(one.ids[number]) == list(other.ids[number])
            and np.allclose(one.scores[number], other.scores[number], rtol=0, atol=_ROUNDING)
            and bool(one.complete[number]) == bool(other.complete[number])
        )
        _require(
            same,
            f"query {number} gets another answer {when}: {_few(one.ids[number])} with "
            f"{one.scores[number][:5]}, then {_few(other.ids[number])} with "
            f"{other.scores[number][:5]}",
        )


def _few(names: Sequence[object]) -> str:
    return f"[{', '.join(map(_shown, names[:5]))}{', …' if len(names) > 5 else ''}]"


def _shown(name: object) -> str:
    text = ascii(name)
    return text if len(text) <= 60 else text[:57] + "…"


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise AssertionError(message)
