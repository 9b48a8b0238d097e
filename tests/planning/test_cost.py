"""Costs against the search itself, against sums done by hand, and against laws; limits as text."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from matryo.core import (
    FormatError,
    Funnel,
    InputError,
    Precision,
    Stage,
    TooFewError,
    UnsupportedError,
)
from matryo.planning.calibration import measure_machine, this_machine
from matryo.planning.cost import Cost, Prices, cost
from matryo.planning.limits import Budget
from matryo.planning.machine import Machine, Rates, Timing
from matryo.search import FunnelSearch
from matryo.testing.strategies import funnels
from matryo.transforms import fit_scales, truncate

WIDTH = 64
plain_funnels = funnels(max_dim=WIDTH, max_keep=300).map(
    lambda funnel: Funnel(tuple(Stage(s.dim, s.keep, s.precision) for s in funnel.stages))
)
units = st.floats(1e-3, 1e3)
rates = st.builds(Rates, *[units] * 6)
machines = st.builds(
    Machine,
    name=st.text(max_size=9),
    engine=st.text(max_size=9),
    version=st.text(max_size=9),
    measured=st.dates().map(str),
    processors=st.integers(1, 256),
    rates=st.fixed_dictionaries(dict.fromkeys(Precision, rates)),
    stage_ns=units,
    kept_row_ns=units,
    kept_number_ns=units,
    bound_row_ns=units,
    p95_ratio=st.floats(1, 10),
    cold_read_us=units,
    cold_byte_ns=units,
    row_overhead_bytes=st.integers(0, 100),
)
MACHINE = Machine(
    name="a machine in a rack",
    engine="an engine",
    version="1.0",
    measured="2026-11-25",
    processors=4,
    rates={
        Precision.FLOAT32: Rates(0.0, 10.0, 0.5, 0.0, 100.0, 0.25),
        Precision.BINARY: Rates(30.0, 2.0, 1.0, 0.0, 50.0, 1.0),
    },
    stage_ns=20_000.0,
    kept_row_ns=30.0,
    kept_number_ns=1.0,
    bound_row_ns=40.0,
    p95_ratio=1.5,
    cold_read_us=80.0,
    cold_byte_ns=2.0,
    row_overhead_bytes=10,
)
TWO_STAGES = Funnel.parse("128@binary:200,768:10")


class TestCounted:
    @given(funnel=plain_funnels, n_rows=st.integers(1, 300), seed=st.integers(0, 99))
    def test_the_bytes_and_rows_are_those_that_the_search_reads(self, funnel, n_rows, seed):
        rng = np.random.default_rng(seed)
        corpus = rng.normal(size=(n_rows, WIDTH)).astype(np.float32)
        scales = {s.dim: fit_scales(truncate(corpus, s.dim), min_rows=1) for s in funnel.stages}

        answer = FunnelSearch(corpus, funnel, scales=scales).search(rng.normal(size=WIDTH))

        told = cost(funnel, n_rows, MACHINE)
        assert told.bytes_read == answer.bytes_read
        assert told.rows_read == tuple(work.rows_read for work in answer.stages)

    def test_two_stages_by_hand(self):
        told = cost(TWO_STAGES, 1_000_000, MACHINE, prices=Prices(3.0, 0.1))

        assert told.rows_read == (1_000_000, 200)
        assert told.bytes_read == 1_000_000 * 16 + 200 * 3072
        assert told.ram_bytes == 1_000_000 * (10 + 16)
        assert told.disk_bytes == 1_000_000 * (10 + 16 + 3072)
        assert told.price_per_million == pytest.approx(3.0 * 0.026 + 0.1 * 3.098)
        assert told.origin == "modelled"

    def test_one_stage_by_hand_is_all_in_memory(self):
        told = cost(Funnel.parse("100@int8:10"), 2000, MACHINE, prices=Prices(1.0, 1.0))

        assert told.ram_bytes == told.disk_bytes == 2000 * (10 + 100)
        assert told.price_per_million == pytest.approx(2 * 0.11)

    def test_stages_of_one_level_share_what_is_stored(self):
        told = cost(Funnel.parse("64@int8:100,64@int8:50,128:10"), 1000, MACHINE)

        assert told.ram_bytes == 1000 * (10 + 64)
        assert told.disk_bytes == 1000 * (10 + 64 + 512)

    def test_a_longer_prefix_is_stored_beside_the_shorter_one(self):
        assert cost(Funnel.parse("64:100,128:10"), 1000, MACHINE).disk_bytes == 1000 * (10 + 768)

    def test_an_exact_stop_goes_on_where_the_stage_before_ended(self):
        told = cost(Funnel.parse("64:100,256:10,exact"), 1000, MACHINE, rows=[1000, 150.5])

        assert told.rows_read == (1000, 150.5)
        assert told.bytes_read == 1000 * (256 + 4) + 150.5 * 768
        assert told.ram_bytes == 1000 * (10 + 256 + 4)
        assert told.disk_bytes == 1000 * (10 + 1024 + 4)

    def test_an_exact_stop_reads_about_as_many_bytes_as_are_counted(self):
        rng = np.random.default_rng(0)
        corpus = (rng.normal(size=(3000, WIDTH)) * 0.97 ** np.arange(WIDTH)).astype(np.float32)
        funnel = Funnel.parse("8:20,16:20,64:5,exact")

        answers = [FunnelSearch(corpus, funnel).search(query) for query in corpus[:20]]

        rows = np.mean([[work.rows_read for work in answer.stages] for answer in answers], axis=0)
        told = cost(funnel, len(corpus), MACHINE, rows=rows.tolist())
        assert len(corpus) > rows[1] > rows[2] > 100
        assert told.bytes_read == pytest.approx(np.mean([a.bytes_read for a in answers]), rel=0.05)

    def test_measured_rows_of_a_margin_count_instead_of_the_longest_shortlist(self):
        margin = "margin[20;1.5;1/0/0.1]"
        told = cost(Funnel.parse(f"64:500,256:10,{margin}"), 1000, MACHINE, rows=[1000, 61.5])

        assert told.bytes_read == 1000 * 256 + 61.5 * 1024

    def test_without_prices_there_is_no_price(self):
        assert cost(TWO_STAGES, 1000, MACHINE).price_per_million is None


class TestModelled:
    def test_the_latency_of_two_stages_by_hand(self):
        told = cost(TWO_STAGES, 1000, MACHINE)

        first = 20_000 + 128 * 30 + 1000 * 2 + 16_000 * 1 + 200 * (30 + 128)
        last = 20_000 + 200 * 100 + 200 * 3072 * 0.25 + 10 * (30 + 768)
        reads = 200 * (80 + 3072 * 2 / 1000) / 1000
        assert told.latency_ms == pytest.approx((first + last) / 1e6)
        assert told.latency_p95_ms == pytest.approx(1.5 * told.latency_ms)
        assert told.latency_cold_ms == pytest.approx(told.latency_ms + reads)

    def test_one_stage_is_in_memory_and_never_cold(self):
        told = cost(Funnel.parse("128@binary:10"), 1000, MACHINE)

        assert told.latency_cold_ms == told.latency_ms

    def test_a_level_beyond_the_caches_costs_more_for_each_byte(self):
        far = replace(MACHINE, rates={Precision.FLOAT32: Rates(0.0, 0.0, 1.0, 2.0, 0.0, 0.0)})
        small, large = (cost(Funnel.parse("64:1"), n, far) for n in (10_000, 10_000_000))

        assert small.latency_ms == pytest.approx((20_000 + 94 + 2_560_000) / 1e6)
        assert large.latency_ms == pytest.approx((20_000 + 94 + 3 * 2_560_000_000) / 1e6)

    def test_what_is_not_known_is_none(self):
        no_disk = replace(MACHINE, cold_read_us=None, cold_byte_ns=None)

        assert cost(TWO_STAGES, 1000, no_disk).latency_cold_ms is None
        assert cost(Funnel.parse("128@binary:10"), 1000, no_disk).latency_cold_ms is not None
        unknown = cost(Funnel.parse("128@int8:200,768:10"), 1000, MACHINE)
        assert unknown.latency_ms is unknown.latency_p95_ms is unknown.latency_cold_ms is None
        assert unknown.bytes_read == 128_000 + 200 * 3072

    @given(
        machine=machines,
        funnel=plain_funnels,
        n_rows=st.integers(1, 10**8),
        more=st.integers(1, 10**8),
        place=st.integers(0, 3),
        change=st.sampled_from(["rows", "dim", "keep"]),
    )
    def test_more_rows_more_numbers_and_longer_shortlists_never_cost_less(
        self, machine, funnel, n_rows, more, place, change
    ):
        stages = list(funnel.stages)
        place = min(place, len(stages) - 1)
        if change == "dim":
            stages[place] = replace(stages[place], dim=stages[place].dim + more)
        elif change == "keep":
            stages = [
                replace(s, keep=s.keep + more) if i <= place else s for i, s in enumerate(stages)
            ]
        prices = Prices(1.0, 0.1)

        less = cost(funnel, n_rows, machine, prices=prices)
        greater = cost(
            Funnel(tuple(stages)),
            n_rows + more if change == "rows" else n_rows,
            machine,
            prices=prices,
        )

        for name in ("bytes_read", "latency_ms", "latency_p95_ms", "latency_cold_ms"):
            assert getattr(greater, name) >= getattr(less, name) * (1 - 1e-12), name
        # a level that two stages share is stored once, and twice when one of them changes
        assume(change != "dim" or len({(s.dim, s.precision) for s in stages}) == len(stages))
        assert greater.ram_bytes >= less.ram_bytes
        assert greater.disk_bytes >= less.disk_bytes
        assert greater.price_per_million >= less.price_per_million * (1 - 1e-12)


ABOUT = {"name": "m", "engine": "e", "version": "1", "measured": "2026-11-25", "processors": 2}


class TestFitted:
    timings = [
        (f"{dim}@{precision}:{keep}", n_rows, None)
        for precision in ("int8", "float32")
        for dim in (16, 200)
        for keep in (10, 500)
        for n_rows in (1000, 20_000, 500_000)
    ] + [
        (f"16@int8:{rows},{dim}@{precision}:10", 10_000, None)
        for precision in ("int8", "float32")
        for dim in (32, 300)
        for rows in (50, 3000)
    ]
    exact = ("16:100,200:10,exact", 10_000, (10_000, 4000.5))

    def timed(self, machine, timings, shape=(0.9, 1.0, 1.0, 1.0, 1.2)):
        for text, n_rows, rows in timings:
            told = cost(Funnel.parse(text), n_rows, machine, rows=rows)
            latencies = told.latency_ms * np.array(shape)
            yield Timing(Funnel.parse(text), n_rows, latencies, rows)

    @given(machine=machines)
    def test_the_units_behind_the_latencies_are_found_again(self, machine):
        known = replace(
            machine, rates={p: machine.rates[p] for p in (Precision.INT8, Precision.FLOAT32)}
        )

        fitted = Machine.fitted(list(self.timed(known, [*self.timings, self.exact])), **ABOUT)

        for text, n_rows, rows in [
            ("64@int8:100,256:20", 50_000, None),
            ("100:7", 123_456, None),
            ("32:500,64:10,exact", 50_000, (50_000, 700)),
        ]:
            found, expected = (
                cost(Funnel.parse(text), n_rows, m, rows=rows) for m in (fitted, known)
            )
            assert found.latency_ms == pytest.approx(expected.latency_ms, rel=1e-3)
        assert fitted.p95_ratio == pytest.approx(1.2)
        assert set(fitted.rates) == {Precision.INT8, Precision.FLOAT32}

    def test_timings_that_do_not_tell_units_apart_are_refused_with_the_number_that_would_do(self):
        no_exact_stop = list(self.timed(MACHINE_OF_ALL, self.timings))

        with pytest.raises(TooFewError, match=r"at least 16 different funnels .* got 32") as e:
            Machine.fitted(no_exact_stop, **ABOUT)

        assert e.value.needed == 16

    @pytest.mark.parametrize("latencies", [[], [0.0, 1.0], [np.nan]])
    def test_latencies_that_are_none_are_refused(self, latencies):
        with pytest.raises(InputError, match="latencies above 0 of at least one query"):
            Timing(Funnel.parse("64:10"), 1000, np.array(latencies))


MACHINE_OF_ALL = replace(MACHINE, rates=dict.fromkeys(Precision, MACHINE.rates[Precision.FLOAT32]))


class TestRefusals:
    @pytest.mark.parametrize("stop", ["exact", "margin[20;1.5;1/0/0.1]"])
    def test_a_stop_rule_without_measured_rows(self, stop):
        with pytest.raises(
            InputError, match=r"depends on the queries: expected rows, got none\n  give rows"
        ):
            cost(Funnel.parse(f"64:100,256:10,{stop}"), 1000, MACHINE)

    def test_inverted_lists(self):
        with pytest.raises(UnsupportedError, match=r"not modelled yet, got 64\[32x8\]:10"):
            cost(Funnel.parse("64[32x8]:10"), 1000, MACHINE)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([1000], "rows for each of the 2 stages of .* got 1"),
            ([0, 10], "from 0 to the 1000 there are, .* got 0 for stage 1"),
            ([1000, -1], "from 0 to the 1000 there are, .* got -1 for stage 2"),
            ([1000, 1001], "from 0 to the 1000 there are, .* got 1001 for stage 2"),
            ([1000, float("nan")], "from 0 to the 1000 there are, .* got nan for stage 2"),
        ],
    )
    def test_rows_that_do_not_fit(self, rows, message):
        with pytest.raises(InputError, match=message):
            cost(TWO_STAGES, 1000, MACHINE, rows=rows)

    def test_no_rows(self):
        with pytest.raises(InputError, match="at least one row to search, got 0"):
            cost(TWO_STAGES, 0, MACHINE)

    @pytest.mark.parametrize("price", [-1.0, float("inf"), float("nan"), True, "1"])
    def test_prices_that_are_none(self, price):
        with pytest.raises(InputError, match="disk_gb_month must be"):
            Prices(1.0, price)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"stage_ns": -1.0}, "stage_ns must be at least 0 and finite, got -1"),
            ({"kept_row_ns": float("inf")}, "kept_row_ns must be at least 0 and finite, got inf"),
            ({"p95_ratio": 0.9}, r"p95_ratio must be at least 1 and finite, got 0\.9"),
            ({"processors": 0}, "processors must be at least 1"),
            ({"cold_read_us": None}, "known together or not at all"),
            ({"cold_byte_ns": -2.0}, "cold_byte_ns must be at least 0"),
        ],
    )
    def test_machines_that_cannot_be(self, change, message):
        with pytest.raises(InputError, match=message):
            replace(MACHINE, **change)


class TestFiles:
    @given(machine=machines)
    def test_a_machine_outlasts_json(self, machine):
        assert Machine.from_dict(json.loads(json.dumps(machine.to_dict()))) == machine

    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "machine.json"
        MACHINE.save(path)
        return path

    def test_a_file_of_another_machine_is_used_as_it_is(self, file):
        loaded = Machine.load(file)

        assert loaded == MACHINE
        assert cost(TWO_STAGES, 1000, loaded) == cost(TWO_STAGES, 1000, MACHINE)

    def test_every_changed_byte_is_refused_or_harmless(self, file):
        whole = file.read_bytes()
        refused = 0

        for place in random.Random(0).sample(range(len(whole)), 150):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            try:
                assert Machine.load(file) == MACHINE
            except FormatError:
                refused += 1

        assert refused > 75  # a blank between two fields changes nothing

    def test_a_changed_number_is_refused_with_what_to_do(self, file):
        file.write_text(file.read_text().replace("20000.0", "10000.0"))

        with pytest.raises(
            FormatError, match=r"machine\.json: this machine was changed .*\n  measure it again"
        ) as e:
            Machine.load(file)

        assert e.value.path == file

    def test_a_newer_file_is_refused_with_what_to_do(self, file):
        file.write_text(file.read_text().replace('"format": 1', '"format": 2'))

        with pytest.raises(FormatError, match=r"machine\.json: .* format 1, got 2\n  a newer"):
            Machine.load(file)

    @pytest.mark.parametrize("text", ["", "[]", "3", "not json", "{}", '{"format": 1}', "\x80"])
    def test_a_file_that_is_no_machine_is_refused(self, text, tmp_path):
        path = tmp_path / "machine.json"
        path.write_text(text, "latin-1")

        with pytest.raises(FormatError, match=r"machine\.json: expected a machine as JSON, got"):
            Machine.load(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"kind": "plan"}, "expected kind 'machine', got 'plan'"),
            ({"rates": None}, "expected the fields of a machine"),
            ({"rates": {"int9": {}}}, "expected the fields of a machine.*int9"),
            ({"rates": {"int8": {"scan_row_ns": 1.0}}}, "expected the fields of a machine"),
            ({"stage_ns": "fast"}, "stage_ns must be a number, got 'fast'"),
            ({"color": "red"}, "expected the fields of a machine.*color"),
        ],
        ids=str,
    )
    def test_values_that_are_no_machine_are_refused(self, change, message):
        with pytest.raises(FormatError, match=message):
            Machine.from_dict({**MACHINE.to_dict(), **change})


SIZES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SIZES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class TestBudget:
    @given(
        number=st.integers(1, 10**6),
        unit=st.sampled_from(sorted(SIZES)),
        gap=st.sampled_from(["", " "]),
    )
    def test_a_size_is_its_number_times_its_unit(self, number, unit, gap):
        budget = Budget.parse(ram=f"{number}{gap}{unit}", disk=f" {number / 4}{unit} ")

        assert budget.ram_bytes == number * SIZES[unit]
        assert budget.disk_bytes == pytest.approx(number * SIZES[unit] / 4)

    @given(number=st.floats(1e-3, 1e6), unit=st.sampled_from([("us", 1e-3), ("ms", 1), ("s", 1e3)]))
    def test_a_duration_is_its_number_times_its_unit(self, number, unit):
        budget = Budget.parse(p95=f"{number!r}{unit[0]}", price=f"{number!r}")

        assert budget.latency_p95_ms == pytest.approx(number * unit[1])
        assert budget.price_per_million == number == Budget.parse(price=number).price_per_million

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            (
                {"ram": "2"},
                r"ram must be a number with its unit, as 2GB or 512MiB, got '2'\n  units",
            ),
            ({"ram": "2gb"}, "got '2gb'\n  units: .*GB"),
            ({"ram": "2 GB RAM"}, "got '2 GB RAM'"),
            ({"ram": ""}, "got ''"),
            ({"ram": "GB"}, "got 'GB'"),
            ({"ram": "nanGB"}, "got 'nanGB'"),
            ({"ram": "2ms"}, "got '2ms'"),
            ({"disk": "0GB"}, "disk must be above 0 and finite, got '0GB'"),
            ({"disk": "-2GB"}, "disk must be above 0 and finite, got '-2GB'"),
            ({"disk": "1e999GB"}, "disk must be above 0 and finite, got '1e999GB'"),
            ({"p95": "20"}, "p95 must be a number with its unit, as 20ms or 1.5s, got '20'"),
            ({"p95": "20min"}, r"got '20min'\n  units: us, µs, ms, s"),
            ({"price": "cheap"}, "price must be a number, as 0.25, got 'cheap'"),
            ({"price": float("nan")}, "got 'nan'"),
            ({"price": -1}, "price must be above 0 and finite, got '-1'"),
        ],
        ids=str,
    )
    def test_a_text_that_is_no_limit_is_refused(self, limits, message):
        with pytest.raises(InputError, match=message):
            Budget.parse(**limits)

    @pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
    def test_a_limit_that_allows_nothing_or_everything_is_refused(self, value):
        with pytest.raises(InputError, match="latency_p95_ms of a budget must be above 0"):
            Budget(latency_p95_ms=value)

    told = Cost(
        bytes_read=1,
        rows_read=(1,),
        latency_ms=20.0,
        latency_p95_ms=31.25,
        latency_cold_ms=None,
        ram_bytes=3_100_000_000,
        disk_bytes=40_000_000_000,
        price_per_million=0.5,
    )

    def test_what_lies_within_every_limit_fits(self):
        budget = Budget.parse(ram="3.1GB", disk="40GB", p95="31.25ms", price=0.5)

        assert budget.fits(self.told)
        assert budget.misses(self.told) == []
        assert Budget().fits(self.told)

    def test_each_limit_that_is_missed_is_a_sentence(self):
        budget = Budget.parse(ram="2GB", disk="500MB", p95="20ms", price=0.3)

        assert not budget.fits(self.told)
        assert budget.misses(self.told) == [
            "needs 3.1 GB of RAM, 2 GB allowed (modelled)",
            "needs 40 GB on disk, 500 MB allowed (modelled)",
            "takes 31.2 ms at p95, 20 ms allowed (modelled)",
            "costs 0.5 a month for a million rows, 0.3 allowed (modelled)",
        ]

    def test_a_near_miss_shows_the_digits_that_matter(self):
        budget = Budget(ram_bytes=3_099_900_000)

        assert budget.misses(replace(self.told, origin="measured")) == [
            "needs 3.1 GB of RAM, 3.0999 GB allowed (measured)"
        ]

    def test_what_is_not_known_does_not_fit_and_says_why(self):
        unknown = replace(self.told, latency_p95_ms=None, price_per_million=None)

        assert Budget(ram_bytes=1e12).fits(unknown)
        assert Budget.parse(p95="20ms", price=1).misses(unknown) == [
            "the latency is unknown, as the machine has no figures for a stage, 20 ms allowed "
            "(modelled)",
            "the price is unknown, as no prices were given, 1 allowed (modelled)",
        ]


@pytest.mark.slow
class TestMeasured:
    @pytest.fixture
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MATRYO_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    def test_this_machine_is_measured_once_and_again_when_asked_or_damaged(self, cache):
        first = this_machine()
        (file,) = cache.iterdir()
        another = replace(first, name="another")
        another.save(file)

        assert this_machine() == another
        assert this_machine(refresh=True).name == first.name
        assert this_machine().name == first.name
        file.write_text(file.read_text()[:-100])
        assert this_machine().name == first.name
        assert Machine.load(file).name == first.name

    def test_this_machine_is_measured_again_where_a_precision_is_not_known(self, cache):
        first = this_machine()
        (file,) = cache.iterdir()
        replace(first, rates={Precision.INT8: first.rates[Precision.INT8]}).save(file)

        assert set(this_machine().rates) == set(Precision)

    def test_what_is_measured_can_price_every_precision(self, tmp_path):
        machine = measure_machine(tmp_path)

        assert set(machine.rates) == set(Precision)
        assert list(tmp_path.iterdir()) == []
        for precision in Precision:
            told = cost(Funnel.parse(f"64@{precision}:50,768:10"), 10_000, machine)
            assert 0 < told.latency_ms <= told.latency_p95_ms

    def test_a_folder_that_cannot_be_written_is_refused_with_what_to_do(
        self, tmp_path, monkeypatch
    ):
        (tmp_path / "file").touch()
        monkeypatch.setenv("MATRYO_CACHE", str(tmp_path / "file" / "cache"))

        with pytest.raises(InputError, match=r"cannot be kept in .*\n.*MATRYO_CACHE"):
            this_machine()
