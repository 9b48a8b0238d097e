"""Funnels, promises and plans as values, as text and as files."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import (
    DimError,
    Exact,
    ExitPolicy,
    FormatError,
    Funnel,
    InputError,
    Line,
    Lists,
    Margin,
    Plan,
    Precision,
    Promise,
    Scan,
    Space,
    Stage,
    Threshold,
    UnknownNameError,
)
from matryo.testing.strategies import funnels

SPACE = Space("m", 1024)
share = st.floats(0, 1)
promises = st.one_of(
    st.builds(
        Promise, st.just("mean"), st.text(max_size=9), share, st.floats(0.01, 0.99), st.none()
    ),
    st.builds(Promise, st.just("share"), st.text(max_size=9), share, st.floats(0.01, 0.99), share),
    st.builds(Promise, st.just("expected"), st.text(max_size=9), share, st.none(), st.none()),
)
exits = st.lists(st.integers(1, 1024), min_size=1, max_size=5, unique=True).flatmap(
    lambda dims: st.builds(
        ExitPolicy,
        st.just(tuple(sorted(dims))),
        st.lists(share, min_size=len(dims) - 1, max_size=len(dims) - 1).map(tuple),
    )
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
plans = st.builds(
    Plan,
    space=st.just(SPACE),
    run=funnels() | exits,
    transform=st.none() | st.text(max_size=9),
    promise=st.none() | promises,
    evidence=st.none() | st.dictionaries(st.text(max_size=5), json_values, max_size=4),
)


@given(funnel=funnels())
def test_the_text_of_a_funnel_reads_back_as_itself(funnel):
    assert Funnel.parse(str(funnel)) == funnel


@pytest.mark.parametrize(
    ("text", "funnel"),
    [
        ("64:10", Funnel((Stage(64, 10),))),
        (
            " 64@int8:500, 768:10 ",
            Funnel((Stage(64, 500, Precision.INT8), Stage(768, 10))),
        ),
        (
            "64@binary[32x8]:500,768:10,exact",
            Funnel((Stage(64, 500, Precision.BINARY, Lists(32, 8)), Stage(768, 10)), Exact()),
        ),
        ("64@float32:10", Funnel((Stage(64, 10, Precision.FLOAT32, Scan()),))),
    ],
)
def test_a_funnel_is_read_from_text(text, funnel):
    assert Funnel.parse(text) == funnel


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected stages as dim@precision:keep, .* got '' in ''"),
        ("64", "got '64' in '64'"),
        ("64:10;128:5", "got '64:10;128:5'"),
        ("64:10,", "got '' in '64:10,'"),
        ("exact", "at least one stage, got none"),
        ("0:10", "dim and keep of at least 1, got dim 0"),
        ("64:0", "dim and keep of at least 1, got dim 64, keep 0"),
        ("64:10,128:20", "cannot keep more rows than it is given: 128:20 after 64:10"),
        ("64:10,128[64x4]:5", r"only the first stage may read lists, got 128\[64x4\]:5"),
        ("64[0x4]:5", "lists need dim and probes of at least 1, got dim 0, probes 4"),
        ("-64:10", "got '-64:10'"),
    ],
)
def test_a_text_that_is_no_funnel_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Funnel.parse(text)


def test_an_unknown_precision_in_a_funnel_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'int9'; did you mean 'int8'\?"):
        Funnel.parse("64@int9:10")


@pytest.mark.parametrize("thresholds", [(), (0.5, 0.5)])
def test_an_exit_policy_has_one_threshold_fewer_than_dims(thresholds):
    with pytest.raises(InputError, match=f"2 dims need 1 thresholds, got {len(thresholds)}"):
        ExitPolicy((64, 128), thresholds)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "mean", "floor": 1.1}, r"floor must be between 0 and 1, got 1\.1"),
        ({"kind": "mean", "floor": float("nan")}, "floor must be between 0 and 1, got nan"),
        ({"kind": "mean", "floor": 0.9, "confidence": None}, "has a confidence, unless"),
        ({"kind": "expected", "floor": 0.9}, "has a confidence, unless its kind is 'expected'"),
        ({"kind": "mean", "floor": 0.9, "confidence": 1.0}, r"confidence must be .* got 1\.0"),
        ({"kind": "share", "floor": 0.9}, "of kind 'share', and no other, has a query_floor"),
        ({"kind": "mean", "floor": 0.9, "query_floor": 0.5}, "of kind 'share', and no other"),
    ],
)
def test_a_promise_that_says_nothing_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Promise(measure="R@10", **fields)


@pytest.mark.parametrize("run", [Funnel.parse("64:10,128:5"), ExitPolicy((64, 128), (0.5,))])
def test_a_plan_cannot_read_more_numbers_than_its_space_has(run):
    with pytest.raises(InputError, match="reads 128 numbers, its space has 100"):
        Plan(Space("m", 100), run)


@given(plan=plans)
def test_a_plan_outlasts_json(plan):
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.fixture
def plan():
    return Plan(
        SPACE,
        Funnel.parse("64@binary:500,768:10"),
        transform="0123abcd",
        promise=Promise("mean", "neighbor_recall@10", 0.95),
        evidence={"queries": 400, "größe": [1.5, None]},
    )


@pytest.fixture
def file(plan, tmp_path):
    path = tmp_path / "plan.json"
    plan.save(path)
    return path


def test_a_plan_outlasts_a_file(plan, file):
    assert Plan.load(file) == plan


def test_every_changed_byte_of_a_plan_is_refused_or_harmless(plan, file):
    whole = file.read_bytes()
    refused = 0

    for place in random.Random(0).sample(range(len(whole)), 400):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert Plan.load(file) == plan
        except FormatError:
            refused += 1

    assert refused > 250  # a blank between two fields changes nothing


def test_a_changed_plan_is_refused_with_what_to_do(file):
    file.write_text(file.read_text().replace("0.95", "0.99"))

    with pytest.raises(
        FormatError, match=r"plan\.json: this plan was changed .*\n  make it again"
    ) as e:
        Plan.load(file)

    assert e.value.path == file


@pytest.mark.parametrize("text", ["", "[]", "3", "not json", "{}", '{"format": 1}', "\x80"])
def test_a_file_that_is_no_plan_is_refused(text, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text, "latin-1")

    with pytest.raises(FormatError, match=r"plan\.json: expected a plan as JSON, got"):
        Plan.load(path)


def test_a_newer_plan_is_refused_with_the_file_and_what_to_do(file):
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))

    with pytest.raises(
        FormatError, match=r"format 1, got 2\n  a newer matryo wrote this plan"
    ) as e:
        Plan.load(file)

    assert str(file) in str(e.value)


@pytest.mark.parametrize(
    "change",
    [
        {"run": {}},
        {"run": None},
        {"run": {"funnel": "64"}},
        {"run": {"funnel": "64@int9:3"}},
        {"promise": {"kind": "mean"}},
        {"promise": {"kind": "mean", "measure": "R@1", "floor": 7}},
        {"space": {}},
        {"space": {**SPACE.to_dict(), "metric": "euclid"}},
    ],
    ids=str,
)
def test_values_that_are_no_plan_are_refused(plan, change):
    with pytest.raises(FormatError, match="expected the fields of a plan"):
        Plan.from_dict({**plan.to_dict(), **change})


def test_a_missing_plan_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "plan.json")


def test_a_full_disk_keeps_the_old_plan(plan, file, run_on_a_full_disk):
    run = run_on_a_full_disk(
        "import sys\nfrom matryo.core import Funnel, Plan, Space\n"
        "plan = Plan(Space('m', 64), Funnel.parse('64:10'), evidence={'x': 'y' * 50_000})\n"
        "def write(): plan.save(sys.argv[1])",
        limit=8_000,
        args=[file],
    )

    assert "OSError" in run.stderr
    assert Plan.load(file) == plan
    assert list(file.parent.iterdir()) == [file]


class TestMargins:
    MARGIN = Margin(20, 1.5, (Line(0.9, 0.01, 0.05),))

    def test_a_margin_is_read_from_text(self):
        text = "64@binary:500,768:10,margin[20;1.5;0.9/0.01/0.05]"

        assert Funnel.parse(text).stop == self.MARGIN
        assert str(Funnel.parse(text)) == text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("64:50,768:10,margin[20;1.5]", "one line for each of the first 1 stages, got 0"),
            ("64:50,768:10,margin[5;1;1/0/1]", "at least the 10 rows asked for, got 5"),
            ("64:50,768:10,margin[20]", r"expected a stop rule as margin\[probe;width"),
            ("64:50,768:10,margin[20;x;1/0/1]", r"got 'margin\[20;x;1/0/1\]'"),
            ("64:50,768:10,margin[20;1;1/0]", "expected a stop rule"),
            ("64:50,768:10,margin[20;1;1/0/-1]", r"spread of at least 0, got 1\.0, 0\.0, -1\.0"),
            ("64:50,768:10,margin[20;nan;1/0/1]", "a finite width, got probe 20, width nan"),
        ],
    )
    def test_a_text_that_is_no_margin_is_refused(self, text, message):
        with pytest.raises(InputError, match=message):
            Funnel.parse(text)


class TestThresholds:
    def test_a_threshold_outlasts_a_file(self, tmp_path):
        limit = Threshold(0.5, (0.1, 0.4, 0.9), (0.2, 0.5, 0.5))
        plan = Plan(SPACE, Funnel.parse("64:10"), threshold=limit)

        plan.save(tmp_path / "plan.json")

        assert Plan.load(tmp_path / "plan.json").threshold == limit

    @pytest.mark.parametrize(
        ("scores", "full_scores"),
        [
            ((0.1,), (0.1,)),
            ((0.1, 0.1), (0.1, 0.2)),
            ((0.1, 0.2), (0.2, 0.1)),
            ((0.1, 0.2), (0.1,)),
        ],
    )
    def test_a_map_that_does_not_rise_is_refused(self, scores, full_scores):
        with pytest.raises(InputError, match="at least two ascending scores"):
            Threshold(0.1, scores, full_scores)


class TestScales:
    @pytest.fixture
    def coded(self):
        steps = np.linspace(0.001, 0.002, 64, dtype=np.float32)
        return Plan(SPACE, Funnel.parse("64@int8:500,768:10"), scales={64: steps})

    def test_int8_steps_lie_beside_the_plan_and_come_back(self, coded, tmp_path):
        coded.save(tmp_path / "plan.json")

        np.testing.assert_array_equal(
            Plan.load(tmp_path / "plan.json").scales[64], coded.scales[64]
        )
        assert {f.name for f in tmp_path.iterdir()} == {"plan.json", "plan.safetensors"}

    def test_missing_damaged_or_foreign_steps_are_refused(self, coded, tmp_path):
        coded.save(tmp_path / "plan.json")
        beside = tmp_path / "plan.safetensors"
        whole = beside.read_bytes()
        beside.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(FormatError, match="expected int8 steps for the dims 64"):
            Plan.load(tmp_path / "plan.json")
        beside.write_bytes(b"nothing")
        with pytest.raises(FormatError, match=r"expected int8 steps in plan\.safetensors"):
            Plan.load(tmp_path / "plan.json")
        beside.unlink()
        with pytest.raises(FormatError, match="found no such file\n  keep both files together"):
            Plan.load(tmp_path / "plan.json")

    def test_steps_of_another_width_are_refused(self):
        with pytest.raises(DimError, match=r"int8 steps of shape \(64,\) in float32, got \(3,\)"):
            Plan(SPACE, Funnel.parse("64@int8:5"), scales={64: np.ones(3, np.float32)})


def test_an_exit_policy_refuses_dims_that_do_not_rise_and_unknown_signals():
    with pytest.raises(DimError, match=r"ascending dims of at least 1, got \[64, 32\]"):
        ExitPolicy((64, 32), (0.5,))
    with pytest.raises(InputError, match="signal must be probability or margin, got 'entropy'"):
        ExitPolicy((32, 64), (0.5,), "entropy")
    with pytest.raises(InputError, match="thresholds must be at least 0"):
        ExitPolicy((32, 64), (-0.5,))


def test_a_plan_without_a_record_says_so():
    assert "nothing is recorded" in Plan(SPACE, Funnel.parse("64:10")).explain()
