"""What an index takes, keeps, tells and refuses."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.stores.made import (
    CALIBRATION,
    FIELDS,
    FUNNEL,
    QUERIES,
    SPACE,
    WIDTH,
    Model,
    columns,
    make,
    rows_of,
    steps_for,
)

from matryo.core import (
    DimError,
    ExitPolicy,
    Funnel,
    InputError,
    NestedVectors,
    Plan,
    Side,
    Space,
    SpaceMismatchError,
    Store,
    TooFewError,
    UnknownNameError,
    UnsupportedError,
    VectorError,
)
from matryo.stores import Index
from matryo.testing import strategies

OTHER = Space("other", WIDTH)


@pytest.fixture
def index(tmp_path):
    with make(tmp_path / "i") as index:
        yield index


def test_it_is_a_store(index):
    assert isinstance(index, Store)
    assert index.capabilities.filters
    assert index.capabilities.precisions == {"binary", "int8", "float32"}
    assert index.space == SPACE


def test_what_was_added_is_there_after_it_was_closed_and_opened(tmp_path):
    vectors = rows_of(2, 30)
    fields = {"year": list(range(1990, 2020)), "language": ["en", None, ""] * 10}
    with make(tmp_path / "i") as index:
        index.add([f"d{i}" for i in range(30)], vectors, fields)

    with Index.open(tmp_path / "i", read_only=True, verify="full") as again:
        records = again.get(["d7", "d3"])

    assert records.ids == ["d7", "d3"]
    assert records.vectors.tobytes() == vectors[[7, 3]].tobytes()
    assert records.fields["year"] == [1997, 1993]
    assert records.fields["language"] == [None, "en"]
    assert records.fields["open"] == [None, None]


@pytest.mark.parametrize(
    "form",
    [
        lambda rows: rows.astype(np.float64),
        lambda rows: np.asfortranarray(rows),
        lambda rows: np.repeat(rows, 2, axis=0)[::2],
        lambda rows: np.hstack([rows, rows])[:, :WIDTH],
        lambda rows: np.lib.stride_tricks.as_strided(rows, writeable=False),
        lambda rows: rows.astype(">f4"),
    ],
)
def test_vectors_of_any_layout_are_kept_as_the_same_float32(index, form):
    vectors = rows_of(2, 20)
    index.add(range(20), form(vectors))

    assert index.get(range(20)).vectors.tobytes() == vectors.tobytes()
    assert index.search(form(vectors[:3]), k=1).ids == [[0], [1], [2]]


def test_float16_is_kept_as_the_float32_of_the_same_value(index):
    vectors = rows_of(2, 20).astype(np.float16)
    index.add(range(20), vectors)

    assert (index.get(range(20)).vectors == vectors).all()


def test_int8_steps_may_be_learned_from_calibration_vectors(tmp_path):
    with Index.create(tmp_path / "i", SPACE, FUNNEL, calibration=CALIBRATION) as index:
        steps = index.plan.scales
    with Index.open(tmp_path / "i") as again:
        assert steps[12].tobytes() == steps_for(FUNNEL)[12].tobytes()
        assert again.plan.scales[12].tobytes() == steps[12].tobytes()
        assert len(again.info()["scales"][12]) == 64


def test_numbers_beyond_the_steps_are_counted(tmp_path):
    with make(tmp_path / "i", Funnel.parse("4@int8:9,16:5")) as index:
        index.add(range(100), CALIBRATION)
        assert index.info()["clipped_share"] == {"4@int8": 0.0}
        far = np.zeros((100, WIDTH), np.float32)
        far[:, 3] = 1  # its prefix is all in one dimension, as none of the calibration's is
        index.add(range(100, 200), far)

    with Index.open(tmp_path / "i") as again:
        assert again.info()["clipped_share"] == {"4@int8": 100 / 800}


def test_info_counts_rows_dead_rows_and_segments(index):
    index.add([1, 2, 3], rows_of(2, 3))
    index.add([4], rows_of(3, 1))
    index.delete([2])

    before = index.info()
    index.compact()
    after = index.info()

    assert [before[key] for key in ("rows", "dead_rows", "segments", "commit")] == [3, 1, 2, 3]
    assert [after[key] for key in ("rows", "dead_rows", "segments", "commit")] == [3, 0, 1, 4]
    assert after["fingerprint"] == SPACE.fingerprint
    assert after["fields"] == {key: kind.__name__ for key, kind in FIELDS.items()}
    assert after["ids"] == "int"


def test_many_small_additions_do_not_stay_many_segments(index):
    model = Model()
    for number in range(24):
        rows = columns([{"year": 1990 + number}])
        index.add([number], rows_of(number, 1), rows)
        model.put([number], rows_of(number, 1), rows)

    assert index.info()["segments"] <= 8
    assert len(list(index.path.glob("*.seg"))) == index.info()["segments"]
    model.check(index)


@pytest.mark.slow
@settings(max_examples=25)
@given(ids=st.integers(2, 12).flatmap(strategies.ids))
def test_ids_of_every_kind_are_found_again_or_refused(ids, tmp_path_factory):
    vectors = rows_of(1, len(ids))
    with make(tmp_path_factory.mktemp("i") / "i") as index:
        if isinstance(ids[0], int) and not all(-(2**63) <= name < 2**63 for name in ids):
            with pytest.raises(InputError, match=r"integers from -2\^63"):
                index.add(ids, vectors)
            return
        for place, name in enumerate(ids):
            index.add([name], vectors[place : place + 1])
        index.delete(ids[:1])

        for _ in range(2):
            assert index.ids() == sorted(ids[1:])
            assert index.get(ids[1:]).vectors.tobytes() == vectors[1:].tobytes()
            with pytest.raises(InputError, match="not in the index"):
                index.get(ids[:1])
            index.compact()


def test_threads_may_search_while_one_adds(index):
    index.add(range(50), rows_of(2, 50))
    failures = []

    def search():
        try:
            for _ in range(30):
                assert len(set(index.search(QUERIES).ids[0])) == 5
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(50, 60):
        index.add([number], rows_of(number, 1))
    for thread in threads:
        thread.join()

    assert failures == []


class TestReaders:
    def test_a_reader_keeps_its_state_until_it_refreshes(self, index):
        index.add(range(20), rows_of(2, 20))
        with Index.open(index.path, read_only=True) as reader:
            before = reader.search(QUERIES).ids
            index.delete(range(10))
            index.compact()

            assert reader.search(QUERIES).ids == before
            assert len(reader.get(range(10)).vectors) == 10
            assert reader.refresh()
            assert reader.search(QUERIES).ids == index.search(QUERIES).ids != before
            assert not reader.refresh()

    def test_it_cannot_change_anything(self, index):
        with Index.open(index.path, read_only=True) as reader:
            for change in (
                lambda: reader.add([1], rows_of(1, 1)),
                lambda: reader.delete([1]),
                lambda: reader.update_fields([1], {}),
                reader.compact,
            ):
                with pytest.raises(UnsupportedError, match="opened with read_only=True"):
                    change()

    def test_it_needs_no_right_to_write(self, index, monkeypatch):
        index.add(range(20), rows_of(2, 20))
        index.close()
        monkeypatch.setattr(os, "access", lambda *_: False)

        with Index.open(index.path, read_only=True) as reader:
            assert len(reader) == 20
            assert not reader.refresh()

    def test_a_snapshot_is_an_index_of_its_own(self, index, tmp_path):
        model = Model()
        fields = columns([{"year": 2000 + row % 3} for row in range(20)])
        index.add(range(20), rows_of(2, 20), fields)
        index.delete([3])
        model.put(range(20), rows_of(2, 20), fields)
        del model.rows[3]

        index.snapshot(tmp_path / "copy")
        index.delete([4])

        with Index.open(tmp_path / "copy", verify="full") as copy:
            model.check(copy)
            copy.add([3], rows_of(9, 1))
        with pytest.raises(InputError, match="copy exists already"):
            index.snapshot(tmp_path / "copy")


class TestRefusals:
    def test_ids_that_are_there(self, index):
        index.add(["a", "b"], rows_of(1, 2))
        with pytest.raises(
            InputError, match=r"1 of these ids is in the index already: 'b'(.|\n)*u"
        ):
            index.add(["c", "b"], rows_of(1, 2))
        assert index.ids() == ["a", "b"]

    @pytest.mark.parametrize("change", ["delete", "get", "update_fields"])
    def test_ids_that_are_not(self, index, change):
        index.add(["a"], rows_of(1, 1))
        extra = ({"year": [1, 2]},) if change == "update_fields" else ()
        with pytest.raises(InputError, match="1 of these ids is not in the index: 'b'"):
            getattr(index, change)(["a", "b"], *extra)
        assert index.ids() == ["a"]

    @pytest.mark.parametrize(
        ("ids", "wording"),
        [
            (["a", "a"], "ids must not repeat, got 1 a second time: 'a'"),
            (["a", 1], "ids of one kind, here str, got 1"),
            ([1, 2**63], "from -2.63 to 2.63 - 1, got 9223372036854775808"),
            (["a", "\ud800"], "texts in Unicode"),
            (["a", None], "strings or integers, got None in row 1"),
            ("ab", "one id per row, got one text"),
            (["a"], "one vector per id, 1, got 2"),
        ],
    )
    def test_ids_that_cannot_be(self, index, ids, wording):
        with pytest.raises(InputError, match=wording):
            index.add(ids, rows_of(1, 2))
        assert len(index) == 0

    def test_ids_of_another_kind_than_before(self, index):
        index.add([1], rows_of(1, 1))
        with pytest.raises(InputError, match="of one kind, here int, got '2'"):
            index.add(["2"], rows_of(1, 1))

    @pytest.mark.parametrize(
        ("value", "wording"),
        [
            (np.nan, "1 row has NaN or infinity: 'b'"),
            (np.inf, "1 row has NaN or infinity: 'b'"),
            (0, "1 row has only zeros: 'b'"),
            (1e300, "as float32: 1 row has NaN or infinity: 'b'"),
            (1e-300, "as float32: 1 row has only zeros: 'b'"),
        ],
    )
    def test_vectors_without_a_direction_by_their_ids(self, index, value, wording):
        vectors = rows_of(1, 3).astype(float)
        vectors[1] = value
        with pytest.raises(VectorError, match=wording):
            index.add(["a", "b", "c"], vectors)

    def test_prefixes_of_zeros_by_their_ids(self, index):
        vectors = rows_of(1, 3)
        vectors[2, :8] = 0
        with pytest.raises(VectorError, match="cut to 8 numbers: only zeros remain of 1 row: 'c'"):
            index.add(["a", "b", "c"], vectors)

    def test_queries_whose_prefix_is_zeros_by_their_row(self, index):
        queries = QUERIES.copy()
        queries[3, :8] = 0
        with pytest.raises(VectorError, match=r"queries cut to 8 numbers: .* 1 row: 3"):
            index.search(queries)

    def test_numbers_beyond_the_format_of_a_stage_by_their_ids(self, tmp_path):
        space = Space("m", WIDTH, metric="dot")
        with (
            make(tmp_path / "i", Funnel.parse("4@float16:9,16:5"), {}, space) as index,
            pytest.raises(VectorError, match=r"float16, which ends at 65504, .*: 'a'"),
        ):
            index.add(["a"], np.full((1, WIDTH), 1e6))

    def test_vectors_and_queries_of_another_width(self, index):
        with pytest.raises(DimError, match="holds vectors of 16 numbers, got 9"):
            index.add([1], np.ones((1, 9)))
        with pytest.raises(DimError, match="queries: this index holds vectors of 16 numbers"):
            index.search(np.ones((1, 17)))
        with pytest.raises(VectorError, match="one vector per row"):
            index.search(np.ones(16))

    def test_vectors_and_queries_of_another_space(self, index):
        with pytest.raises(SpaceMismatchError, match="holds m @ 16, the vectors come from other"):
            index.add([1], rows_of(1, 1), space=OTHER)
        nested = NestedVectors.from_array(rows_of(1, 1), [1], space=OTHER, side=Side.QUERY)
        with pytest.raises(SpaceMismatchError, match="holds m @ 16, the queries come from other"):
            index.search(nested)

    @pytest.mark.parametrize(
        ("fields", "wording"),
        [
            ({"year": [1]}, "'year': expected 2 values, one per row, got 1"),
            ({"language": "en"}, "'language': expected 2 values, one per row, got 'en'"),
            ({"year": [1, "x"]}, "'year' of row 'b': expected int .*, got 'x'"),
            ({"year": [True, 1]}, "'year' of row 'a': expected int"),
            ({"year": [1, 2**63]}, "expected int from -2"),
            ({"open": [1, None]}, "expected bool, got 1"),
            ({"price": [math.nan, 1]}, "expected float that is a number, got nan"),
            ({"price": [10**400, 1]}, "expected float"),
            ({"language": ["\ud800", ""]}, "expected str in Unicode"),
        ],
    )
    def test_fields_of_other_types(self, index, fields, wording):
        with pytest.raises(InputError, match=wording):
            index.add(["a", "b"], rows_of(1, 2), fields)
        assert len(index) == 0

    def test_fields_that_there_are_not(self, index):
        with pytest.raises(UnknownNameError, match="no field is called 'yeer'"):
            index.add(["a"], rows_of(1, 1), {"yeer": [1]})

    @pytest.mark.parametrize("fields", [{"and": int}, {"": int}, {"a": bytes}, {"a": "int"}])
    def test_fields_that_cannot_be(self, tmp_path, fields):
        with pytest.raises(InputError, match=r"field|types"):
            make(tmp_path / "i", fields=fields)
        assert list(tmp_path.iterdir()) == []

    def test_an_index_where_something_is(self, index):
        with pytest.raises(InputError, match="exists already"):
            make(index.path)

    @pytest.mark.parametrize(
        ("what", "options", "error", "wording"),
        [
            (FUNNEL, {}, InputError, "12@int8 needs int8 steps for 12 numbers(.|\n)*calibration"),
            (FUNNEL, {"calibration": CALIBRATION[:5]}, TooFewError, "at least 32 samples"),
            (FUNNEL, {"calibration": CALIBRATION[:, :9]}, DimError, "calibration vectors of 16"),
            (
                FUNNEL,
                {"calibration": CALIBRATION, "scales": steps_for(FUNNEL)},
                InputError,
                "from calibration, got two",
            ),
            (Funnel.parse("4[4x2]:9"), {}, UnsupportedError, "inverted lists"),
            (Funnel.parse("4:9,8:5,exact"), {}, UnsupportedError, "rise to the full width"),
            (Plan(SPACE, ExitPolicy((4, 16), (0.9,))), {}, UnsupportedError, "for a cascade"),
            (Plan(OTHER, Funnel.parse("4:9")), {}, SpaceMismatchError, "plan is for other @ 16"),
        ],
    )
    def test_what_cannot_be_run(self, tmp_path, what, options, error, wording):
        with pytest.raises(error, match=wording):
            Index.create(tmp_path / "i", SPACE, what, **options)
        assert list(tmp_path.iterdir()) == []

    def test_anything_after_it_was_closed(self, index):
        index.close()
        index.close()
        with pytest.raises(InputError, match="was closed"):
            index.search(QUERIES)


class TestOneWriter:
    def test_a_second_one_is_told_the_process_of_the_first(self, index):
        code = f"from matryo.stores import Index; Index.open({str(index.path)!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )

        assert f"one writer, and process {os.getpid()} has it open" in done.stderr
        with pytest.raises(InputError, match=r"\(this one\)(.|\n)*read_only=True") as caught:
            Index.open(index.path)
        assert caught.value.pid == os.getpid()

    def test_a_system_without_file_locks_can_only_read(self, index, monkeypatch):
        index.close()
        monkeypatch.setitem(sys.modules, "fcntl", None)

        with pytest.raises(UnsupportedError, match=r"locks of a POSIX system(.|\n)*read_only=True"):
            Index.open(index.path)
        Index.open(index.path, read_only=True).close()

    def test_one_that_was_closed_or_forgotten_is_no_hindrance(self, index):
        index.add([1], rows_of(1, 1))
        index.close()
        again = Index.open(index.path)
        del again

        with Index.open(index.path) as third:
            assert len(third) == 1


class Machine(RuleBasedStateMachine):
    """An index beside a dictionary; every step is compared, and so is every answer."""

    @initialize()
    def start(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name) / "i"
        self.index, self.model, self.seed = make(self.folder), Model(), 0

    def batch(self, ids):
        self.seed += 1
        rng = np.random.default_rng(self.seed)
        rows = [
            {
                "year": int(rng.integers(1998, 2003)) if rng.random() < 0.8 else None,
                "language": ["en", "de", None][int(rng.integers(3))],
            }
            for _ in ids
        ]
        # few distinct rows, so that many scores are tied
        return rows_of(int(rng.integers(6)), 1).repeat(len(ids), axis=0), columns(rows)

    @rule(ids=st.sets(st.integers(-9, 30), min_size=1, max_size=12))
    def add(self, ids):
        fresh = sorted(ids - self.model.rows.keys())
        vectors, fields = self.batch(ids)
        if len(fresh) < len(ids):
            with pytest.raises(InputError, match="already"):
                self.index.add(sorted(ids), vectors, fields)
        else:
            self.index.add(fresh, vectors, fields)
            self.model.put(fresh, vectors, fields)

    @rule(ids=st.sets(st.integers(-9, 30), min_size=1, max_size=12))
    def upsert(self, ids):
        vectors, fields = self.batch(ids)
        self.index.upsert(list(ids), vectors, fields)
        self.model.put(list(ids), vectors, fields)

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data())
    def delete(self, data):
        ids = data.draw(st.sets(st.sampled_from(sorted(self.model.rows)), max_size=5))
        self.index.delete(list(ids))
        for name in ids:
            del self.model.rows[name]

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data(), year=st.none() | st.integers(1998, 2003))
    def update(self, data, year):
        ids = data.draw(st.sets(st.sampled_from(sorted(self.model.rows)), max_size=5))
        self.index.update_fields(list(ids), {"year": [year] * len(ids)})
        for name in ids:
            self.model.rows[name][1]["year"] = year

    @rule()
    def compact(self):
        self.index.compact()

    @rule()
    def reopen(self):
        self.index.close()
        self.index = Index.open(self.folder, verify="full")

    @invariant()
    def same(self):
        if hasattr(self, "index"):
            self.model.check(self.index)

    def teardown(self):
        if hasattr(self, "index"):
            self.index.close()
            self.temporary.cleanup()


Machine.TestCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestAgainstADictionary = pytest.mark.slow(Machine.TestCase)
