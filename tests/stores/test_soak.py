"""Random histories of an index, its snapshots and its readers, beside a plain dictionary."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.stores.soak import (
    MORE_FILES,
    WHERES,
    Beside,
    Copied,
    Got,
    Question,
    Sample,
    found,
    leaks,
)

from matryo.stores import Index

numbers = st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True)
seeds = st.integers(0, 2**16)
questions = st.builds(Question, seeds, st.integers(0, len(WHERES) - 1), st.sampled_from([1, 5, 30]))


class Machine(RuleBasedStateMachine):
    """An index that is changed, and a reader of it that follows when it is told to."""

    @initialize(text=st.booleans())
    def start(self, text):
        self.temporary = tempfile.TemporaryDirectory()
        self.beside = Beside(Path(self.temporary.name), text=text)
        self.reader = Index.open(self.beside.folder / "i", read_only=True)

    @rule(numbers=numbers, seed=seeds)
    def add(self, numbers, seed):
        self.beside.add(numbers, seed)

    @rule(numbers=numbers, seed=seeds)
    def upsert(self, numbers, seed):
        self.beside.upsert(numbers, seed)

    @rule(data=st.data())
    def delete(self, data):
        self.beside.delete(self.some_of_those_there(data))

    @rule(data=st.data(), seed=seeds)
    def update(self, data, seed):
        self.beside.update(self.some_of_those_there(data), seed)

    @rule(numbers=numbers)
    def delete_what_may_be_missing(self, numbers):
        self.beside.delete(numbers)

    @rule()
    def compact(self):
        self.beside.compact()

    @rule()
    def snapshot(self):
        self.beside.snapshot()

    @rule()
    def reopen(self):
        self.beside.reopen()

    @rule()
    def refresh(self):
        last = self.beside.index.info()["commit"]
        behind = self.reader.info()["commit"] < last
        assert self.reader.refresh() == behind
        assert self.reader.info()["commit"] == last

    @rule(question=questions)
    def search(self, question):
        self.beside.verify(found(self.beside.index, question, "the writer"))
        self.beside.verify(found(self.reader, question, "the reader"))

    @rule(asked=st.lists(questions, min_size=4, max_size=8))
    def search_in_threads(self, asked):
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda each: found(self.reader, each, "a thread"), asked)
            for answer in answers:
                self.beside.verify(answer)

    @rule(seed=seeds)
    def get(self, seed):
        ids = self.reader.ids()
        some = random.Random(seed).sample(ids, min(len(ids), 8))
        commit = self.reader.info()["commit"]
        self.beside.verify(Got("the reader", commit, ids, self.reader.get(some)))

    @rule()
    def snapshot_of_what_the_reader_sees(self):
        path = self.beside.folder / "old"
        self.reader.snapshot(path)
        self.beside.verify(Copied("the reader", self.reader.info()["commit"], path))

    @invariant()
    def same(self):
        if hasattr(self, "beside"):
            self.beside.check_all()

    def some_of_those_there(self, data):
        there = [n for n in range(41) if self.beside.ids([n])[0] in self.beside.rows]
        some = st.lists(st.sampled_from(there), max_size=8, unique=True) if there else st.just([])
        return data.draw(some)

    def teardown(self):
        if hasattr(self, "beside"):
            self.reader.close()
            self.beside.close()
            self.temporary.cleanup()


Machine.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestAgainstADictionary = pytest.mark.slow(Machine.TestCase)


class TestTheSoakItself:
    def test_an_answer_of_a_commit_that_was_not_the_last_then_is_noticed(self, tmp_path):
        beside = Beside(tmp_path)
        beside.add(range(30), 1)
        old = found(beside.index, Question(3, 0, 30), "a test")
        beside.verify(old)
        beside.delete([4])
        now = beside.index.info()["commit"]

        with pytest.raises(AssertionError, match="who='a test'"):
            beside.verify(old._replace(first=now, last=now))
        beside.verify(old._replace(last=now))
        beside.close()

    def test_a_record_that_has_changed_is_noticed(self, tmp_path):
        beside = Beside(tmp_path)
        beside.add(range(5), 1)
        ids = beside.index.ids()
        got = Got("a test", beside.index.info()["commit"], ids, beside.index.get(ids))
        beside.verify(got)
        got.records.fields["year"][2] = 1900

        with pytest.raises(AssertionError):
            beside.verify(got)
        beside.close()

    def test_files_that_stay_open_are_noticed(self):
        level = [Sample(1e6, 1e6, 12 + i % 5, 8, 4) for i in range(100)]
        rising = [Sample(1e6, 1e6, 12 + i % 5 + i // 4, 8, 4) for i in range(100)]

        assert all(late <= bound for _, _, late, bound in leaks(level))
        beyond = [name for name, early, late, bound in leaks(rising) if late > bound]
        assert beyond == ["open_files"]
        assert MORE_FILES < 20

    @pytest.mark.slow
    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
    def test_some_seconds_of_mixed_work_neither_diverge_nor_leak(self):
        script = Path(__file__).with_name("soak.py")
        seed = str(random.randrange(10**6))
        done = subprocess.run(
            [sys.executable, script, "--minutes", "0.1", "--seed", seed],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

        assert done.returncode == 0, f"seed {seed}: {done.stdout} {done.stderr}"
        assert "found by a reader in another process" in done.stdout
