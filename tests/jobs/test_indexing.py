"""An index built from files: which rows and fields arrive, and builds that are interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from matryo.core import (
    DimError,
    FormatError,
    Funnel,
    InputError,
    Plan,
    Side,
    Space,
    SpaceMismatchError,
    TooFewError,
    VectorError,
)
from matryo.evaluation import fit_steps
from matryo.jobs.indexing import add_to_index, build_index, parse_fields, search_index
from matryo.readers import write_vectors
from matryo.search import FunnelSearch, Level
from matryo.stores import Index
from matryo.transforms import Rotation, save_transform

FUNNEL = "8@binary:60,16@int8:20,32:5"
SPACE = Space("words", 32, revision="1")
PLACES = ("Rome", "Oslo", "Lima")
# in another process: build from vectors, and be killed once so many rows are done
RUN = """
import os, signal, sys
from matryo.jobs.indexing import build_index
done = 0
def progress(stage, more, total):
    global done
    done += more
    if done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
build_index(*sys.argv[1:3], "8@binary:60,16@int8:20,32:5", batch=100, resume="resume" in sys.argv,
            progress=progress)
"""


@pytest.fixture
def vectors(corpus, tmp_path):
    """400 rows with ids in their order, since of equal scores the smaller id goes first."""
    write_vectors(tmp_path / "rows.npy", corpus, [f"r{i:03}" for i in range(400)])
    return tmp_path / "rows.npy"


@pytest.fixture
def notes(write_lines):
    """120 texts, the sixth of them empty, with fields of which some are missing."""
    rows = [
        {
            "id": f"n{i}",
            "text": "" if i == 5 else f"thing{i} colour{i % 7}",
            "year": 1990 + i if i % 10 else None,
            "place": PLACES[i % 3],
        }
        for i in range(120)
    ]
    return write_lines("notes.jsonl", rows)


def held(path):
    """All that an index holds, in the order of its ids."""
    with Index.open(path, read_only=True, verify="full") as index:
        records = index.get(index.ids())
        return records.ids, records.vectors.tobytes(), records.fields, index.plan.to_dict()


class TestVectors:
    @pytest.mark.parametrize("suffix", [".npy", ".parquet", ".jsonl", ".fvecs"])
    def test_every_row_of_a_file_arrives_with_its_id(self, suffix, corpus, tmp_path):
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
        write_vectors(tmp_path / f"rows{suffix}", corpus, [f"r{i}" for i in range(400)])

        built = build_index(tmp_path / f"rows{suffix}", tmp_path / "i", "8:60,32:5", batch=150)

        with Index.open(tmp_path / "i") as index:
            np.testing.assert_array_equal(index.get(["r0", "r399"]).vectors, corpus[[0, 399]])
            assert len(index) == built["rows"] == 400
            assert index.info()["segments"] == 3
        assert sorted(file.name for file in tmp_path.iterdir() if file.is_dir()) == ["i"]

    def test_an_index_with_inverted_lists_ends_as_one_segment(self, vectors, queries, tmp_path):
        build_index(vectors, tmp_path / "flat", "8@int4:60,32:5", batch=150)
        build_index(vectors, tmp_path / "i", "8@int4[8x4]:60,32:5", batch=150)

        assert held(tmp_path / "i")[:3] == held(tmp_path / "flat")[:3]
        with Index.open(tmp_path / "i") as index, Index.open(tmp_path / "flat") as flat:
            assert (index.info()["segments"], flat.info()["segments"]) == (1, 3)
            assert index.search(queries).ids == flat.search(queries).ids  # too few rows for lists

    def test_rows_without_ids_are_numbered(self, corpus, tmp_path):
        np.save(tmp_path / "rows.npy", corpus)

        build_index(tmp_path / "rows.npy", tmp_path / "i", "8:60,32:5")

        with Index.open(tmp_path / "i") as index:
            assert index.ids() == list(range(400))

    def test_the_answers_are_those_of_a_search_in_memory_with_steps_of_the_same_sample(
        self, vectors, corpus, queries, tmp_path
    ):
        build_index(vectors, tmp_path / "i", FUNNEL, batch=130)

        funnel = Funnel.parse(FUNNEL)
        scales = fit_steps(corpus, [Level(s.dim, s.precision) for s in funnel.stages], "cosine")
        memory = FunnelSearch(corpus, funnel, scales=scales)
        with Index.open(tmp_path / "i") as index:
            hits = index.search(queries)
        expected = [[f"r{row:03}" for row in memory.search(query).rows] for query in queries]
        assert hits.ids == expected

    def test_a_folder_says_its_space_and_a_plan_for_another_is_refused(self, corpus, tmp_path):
        write_vectors(tmp_path / "rows.matryo", corpus, range(400), space=SPACE, side=Side.DOCUMENT)
        plan = Plan(SPACE, Funnel.parse("8:60,32:5"))
        other = Plan(Space("words", 32, revision="2"), Funnel.parse("8:60,32:5"))

        build_index(tmp_path / "rows.matryo", tmp_path / "i", plan)
        with pytest.raises(SpaceMismatchError, match="they differ in revision"):
            build_index(tmp_path / "rows.matryo", tmp_path / "j", other)

        with Index.open(tmp_path / "i") as index:
            assert index.space == SPACE
        assert sorted(f.name for f in tmp_path.iterdir()) == ["i", "rows.matryo"]

    def test_vectors_of_queries_are_refused(self, corpus, tmp_path):
        write_vectors(tmp_path / "rows.matryo", corpus, range(400), space=SPACE, side=Side.QUERY)

        with pytest.raises(InputError, match="got a folder of query vectors"):
            build_index(tmp_path / "rows.matryo", tmp_path / "i", "8:60,32:5")

    def test_a_file_that_does_not_say_is_taken_for_the_space_that_is_named(
        self, words, vectors, tmp_path
    ):
        build_index(vectors, tmp_path / "by-model", "8:60,32:5", model=words)
        build_index(vectors, tmp_path / "by-plan", Plan(SPACE, Funnel.parse("8:60,32:5")))
        build_index(vectors, tmp_path / "unnamed", "8:60,32:5", metric="dot")

        spaces = [held(tmp_path / name)[3]["space"] for name in ("by-model", "by-plan", "unnamed")]
        assert spaces[0] == spaces[1] == SPACE.to_dict()
        assert (spaces[2]["model"], spaces[2]["metric"]) == ("vectors of an unnamed model", "dot")

    def test_another_metric_than_that_of_a_known_space_is_refused(self, words, vectors, tmp_path):
        with pytest.raises(InputError, match="scored by cosine, got the metric l2"):
            build_index(vectors, tmp_path / "i", "8:60,32:5", model=words, metric="l2")

    def test_a_width_that_is_not_that_of_the_plan_leaves_nothing_behind(self, corpus, tmp_path):
        np.save(tmp_path / "rows.npy", corpus[:, :16])

        with pytest.raises(DimError, match="vectors of 32 numbers, got 16"):
            build_index(
                tmp_path / "rows.npy", tmp_path / "i", Plan(SPACE, Funnel.parse("8:60,32:5"))
            )
        assert [file.name for file in tmp_path.iterdir()] == ["rows.npy"]

    def test_a_row_that_cannot_be_used_is_named_and_leaves_nothing_behind(self, corpus, tmp_path):
        corpus[333, 3] = np.nan
        np.save(tmp_path / "rows.npy", corpus)

        with pytest.raises(VectorError, match="1 row has NaN or infinity: 333"):
            build_index(tmp_path / "rows.npy", tmp_path / "i", "8:60,32:5", batch=100)
        assert [file.name for file in tmp_path.iterdir()] == ["rows.npy"]

    def test_steps_are_not_fitted_on_a_handful_of_rows(self, corpus, tmp_path):
        np.save(tmp_path / "rows.npy", corpus[:31])

        with pytest.raises(TooFewError, match="at least 32 rows"):
            build_index(tmp_path / "rows.npy", tmp_path / "i", FUNNEL)
        assert [file.name for file in tmp_path.iterdir()] == ["rows.npy"]

    def test_a_file_of_no_known_format_is_refused(self, tmp_path):
        (tmp_path / "rows.doc").write_text("x")

        with pytest.raises(InputError, match=r"expected a file of vectors or texts, got \.doc"):
            build_index(tmp_path / "rows.doc", tmp_path / "i", "8:60,32:5")


class TestTransform:
    @pytest.fixture
    def rotation(self, corpus, tmp_path):
        rotation = Rotation().fit(corpus)
        save_transform(rotation, tmp_path / "rotation.safetensors")
        return rotation

    def test_it_is_applied_to_rows_and_queries_alike(
        self, rotation, words, notes, counting, tmp_path
    ):
        file = tmp_path / "rotation.safetensors"

        build_index(notes, tmp_path / "i", "8:60,32:5", model=words, transform=file)
        found = search_index(tmp_path / "i", "thing7 colour0", model=words, transform=file, k=3)

        with Index.open(tmp_path / "i") as index:
            expected = rotation.transform(counting(["thing7 colour0"]))
            np.testing.assert_allclose(index.get(["n7"]).vectors, expected, atol=1e-5)
            assert index.space.document.map == index.space.query.map == rotation.digest
        assert found["hits"][0]["id"] == "n7"
        assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-5)

    @pytest.mark.usefixtures("rotation")
    def test_a_call_without_it_is_refused(self, words, notes, tmp_path):
        file = tmp_path / "rotation.safetensors"
        build_index(notes, tmp_path / "i", "8:60,32:5", model=words, transform=file)
        with Index.open(tmp_path / "i", read_only=True) as index:
            plan = index.plan

        wording = "is for vectors after the transform with digest .*, got no transform"
        with pytest.raises(InputError, match=f"this plan {wording}"):
            build_index(notes, tmp_path / "j", plan, model=words)
        with pytest.raises(InputError, match=f"this index {wording}"):
            search_index(tmp_path / "i", "thing7", model=words)
        with pytest.raises(InputError, match=f"this index {wording}"):
            add_to_index(tmp_path / "i", notes, model=words, upsert=True)

    def test_vectors_that_went_through_it_are_not_sent_through_it_again(
        self, rotation, corpus, tmp_path
    ):
        mapped = rotation.transform(corpus).astype(np.float32)
        side = type(SPACE.document)(map=rotation.digest)
        space = Space("words", 32, revision="1", query=side, document=side)
        write_vectors(tmp_path / "rows.matryo", mapped, range(400), space=space, side=Side.DOCUMENT)

        with pytest.raises(InputError, match="have been through the transform with digest"):
            build_index(tmp_path / "rows.matryo", tmp_path / "i", "8:60,32:5", transform=rotation)


class TestTexts:
    def test_texts_are_encoded_once_and_empty_ones_are_said(self, words, notes, counting, tmp_path):
        built = build_index(notes, tmp_path / "i", "8:60,32:5", model=words, batch=50)

        assert built["left_out"] == ["n5"]
        assert built["rows"] == counting.count == 119
        with Index.open(tmp_path / "i") as index:
            np.testing.assert_allclose(
                index.get(["n7"]).vectors, counting(["thing7 colour0"]), atol=1e-6
            )

    def test_the_model_is_recorded_for_searches(self, notes, tmp_path):
        pytest.importorskip("wordllama")
        build_index(notes, tmp_path / "i", "64:60,256:5", model="wordllama")

        assert held(tmp_path / "i")[3]["evidence"] == {"encoder": "wordllama"}
        assert search_index(tmp_path / "i", "thing7 colour0")["hits"][0]["score"] > 0.9

    def test_fields_stay_with_their_rows_where_empty_texts_are_left_out(
        self, words, notes, tmp_path
    ):
        build_index(
            notes, tmp_path / "i", "8:60,32:5", model=words, batch=50,
            fields={"year": int, "place": str, "text": str},
        )  # fmt: skip

        ids, _, fields, _ = held(tmp_path / "i")
        for place, name in enumerate(ids):
            number = int(name[1:])
            assert fields["place"][place] == PLACES[number % 3]
            assert fields["year"][place] == (1990 + number if number % 10 else None)
            assert fields["text"][place] == f"thing{number} colour{number % 7}"

    def test_the_columns_of_a_table_become_typed(self, words, write_lines, tmp_path):
        table = write_lines(
            "notes.tsv",
            [
                ("id", "text", "year", "price", "open"),
                ("a", "one thing", "2001", "1.5", "true"),
                ("b", "another", "", "2", "False"),
            ],
        )

        build_index(
            table, tmp_path / "i", "8:5,32:5", model=words,
            fields={"year": int, "price": float, "open": bool},
        )  # fmt: skip

        assert held(tmp_path / "i")[2] == {
            "year": [2001, None], "price": [1.5, 2.0], "open": [True, False],
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "kind", "message"),
        [
            ("year", int, "line 3: field 'year': expected int, got 'soon'"),
            ("open", bool, r"expected bool, got 'maybe' \(true and false are known\)"),
            ("author", str, "found none with 'author'"),
        ],
    )
    def test_a_column_that_does_not_fit_is_named(
        self, name, kind, message, words, write_lines, tmp_path
    ):
        table = write_lines(
            "notes.tsv",
            [("text", "year", "open"), ("one", "2001", "true"), ("two", "soon", "maybe")],
        )

        with pytest.raises(InputError, match=message):
            build_index(table, tmp_path / "i", "8:5,32:5", model=words, fields={name: kind})
        assert [file.name for file in tmp_path.iterdir()] == ["notes.tsv"]

    def test_fields_of_vectors_come_from_the_same_table(self, corpus, tmp_path):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        table = pa.table(
            {"id": [f"r{i}" for i in range(400)], "vector": list(corpus), "year": range(400)}
        )
        pq.write_table(table, tmp_path / "rows.parquet")

        build_index(tmp_path / "rows.parquet", tmp_path / "i", "8:60,32:5", fields={"year": int})

        ids, _, fields, _ = held(tmp_path / "i")
        assert [f"r{year}" for year in fields["year"]] == ids

    def test_fields_of_a_file_without_columns_are_refused(self, vectors, tmp_path):
        with pytest.raises(InputError, match="found none with 'year'"):
            build_index(vectors, tmp_path / "i", "8:60,32:5", fields={"year": int})

    def test_the_documents_of_a_benchmark_folder_are_found_by_their_text(
        self, words, beir, tmp_path
    ):
        build_index(beir(), tmp_path / "i", "8:60,32:5", model=words)

        found = search_index(tmp_path / "i", "thing3 colour3 shape3", model=words, k=1)

        assert found["hits"][0]["id"] == "d3"

    @pytest.mark.parametrize("text", ["year", "year:date", ":", "year:"])
    def test_a_field_in_another_form_is_refused(self, text):
        with pytest.raises(InputError, match="name:type with one of the types bool, int"):
            parse_fields(["place:str", text])

    def test_a_field_may_have_a_colon_in_its_name_but_not_be_named_twice(self):
        assert parse_fields(["a:b:int"]) == {"a:b": int}
        with pytest.raises(InputError, match="each name once"):
            parse_fields(["a:int", "a:str"])


class TestResume:
    @pytest.mark.slow
    @pytest.mark.parametrize("done", [50, 100, 250, 399])
    def test_a_killed_build_goes_on_and_ends_with_the_same_rows(self, done, vectors, tmp_path):
        call = [sys.executable, "-c", RUN, vectors, tmp_path / "i"]

        killed = subprocess.run([*call, str(done)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "i").exists()
        with pytest.raises(InputError, match="holds an unfinished build"):
            build_index(vectors, tmp_path / "i", FUNNEL, batch=100)
        resumed = build_index(vectors, tmp_path / "i", FUNNEL, batch=100, resume=True)
        build_index(vectors, tmp_path / "whole", FUNNEL, batch=100)

        assert resumed["resumed_at"] == min(-(-done // 100) * 100, 400)
        assert held(tmp_path / "i") == held(tmp_path / "whole")
        assert not (tmp_path / "i.unfinished").exists()

    def test_a_build_that_ended_while_it_merged_goes_on_with_that(self, vectors, tmp_path):
        funnel = "8@int4[8x4]:60,32:5"

        def progress(stage, more, total):
            if stage == "merging":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_index(vectors, tmp_path / "i", funnel, batch=100, progress=progress)
        resumed = build_index(vectors, tmp_path / "i", funnel, batch=100, resume=True)

        assert resumed["resumed_at"] == 400
        with Index.open(tmp_path / "i") as index:
            assert (len(index), index.info()["segments"]) == (400, 1)

    @pytest.fixture
    def interrupted(self, notes, words, tmp_path):
        """A build of texts with a field that ended after a hundred rows."""

        def progress(stage, more, total):
            if stage == "adding rows" and more == 50:
                progress.batches += 1
                if progress.batches == 2:
                    raise KeyboardInterrupt

        progress.batches = 0
        with pytest.raises(KeyboardInterrupt):
            build_index(
                notes, tmp_path / "i", "8:60,32:5", model=words, batch=50, fields={"year": int},
                progress=progress,
            )  # fmt: skip
        return tmp_path / "i.unfinished"

    @pytest.mark.usefixtures("interrupted")
    def test_texts_and_fields_go_on_where_they_were(self, notes, words, counting, tmp_path):
        before = counting.count
        resumed = build_index(
            notes, tmp_path / "i", "8:60,32:5", model=words, batch=50, fields={"year": int},
            resume=True,
        )  # fmt: skip

        assert (resumed["resumed_at"], counting.count - before) == (100, 19)
        build_index(
            notes, tmp_path / "whole", "8:60,32:5", model=words, batch=50, fields={"year": int}
        )
        assert held(tmp_path / "i") == held(tmp_path / "whole")

    def test_a_build_that_another_process_is_at_is_left_to_it(
        self, interrupted, notes, words, tmp_path
    ):
        with (
            Index.open(interrupted / "index"),
            pytest.raises(InputError, match="an index has one writer"),
        ):
            build_index(
                notes, tmp_path / "i", "8:60,32:5", model=words, batch=50, fields={"year": int},
                resume=True,
            )  # fmt: skip
        assert interrupted.exists()

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            ({"run": "16:60,32:5"}, "run"),
            ({"batch": 60}, "batch"),
            ({"fields": {"place": str}}, "fields"),
        ],
    )
    def test_a_build_of_another_kind_is_not_gone_on_with(
        self, other, named, interrupted, notes, words, tmp_path
    ):
        call = {"run": "8:60,32:5", "batch": 50, "fields": {"year": int}, **other}

        with pytest.raises(InputError, match=f"of another kind: it differs in {named}"):
            build_index(notes, tmp_path / "i", model=words, resume=True, **call)
        assert interrupted.exists()

    @pytest.mark.usefixtures("interrupted")
    def test_data_that_changed_meanwhile_are_not_mixed(self, notes, words, tmp_path):
        with notes.open("a") as stream:
            stream.write(json.dumps({"id": "late", "text": "x", "year": 1}) + "\n")

        with pytest.raises(InputError, match="differs in data, rows"):
            build_index(
                notes, tmp_path / "i", "8:60,32:5", model=words, batch=50, fields={"year": int},
                resume=True,
            )  # fmt: skip

    def test_a_damaged_state_is_refused(self, interrupted, notes, words, tmp_path):
        (interrupted / "build.json").write_text("{")

        with pytest.raises(FormatError, match="expected the state of an unfinished run"):
            build_index(
                notes, tmp_path / "i", "8:60,32:5", model=words, batch=50, fields={"year": int},
                resume=True,
            )  # fmt: skip

    def test_a_finished_build_is_left_alone_and_another_index_is_not_taken_for_it(
        self, vectors, corpus, tmp_path
    ):
        build_index(vectors, tmp_path / "i", "8:60,32:5")
        before = held(tmp_path / "i")
        (tmp_path / "i.unfinished").mkdir()  # the last thing that is removed

        again = build_index(vectors, tmp_path / "i", "8:60,32:5", resume=True)

        assert again["resumed_at"] == 400
        assert held(tmp_path / "i") == before
        assert not (tmp_path / "i.unfinished").exists()
        np.save(tmp_path / "fewer.npy", corpus[:300])
        with pytest.raises(InputError, match="is not what this build would make"):
            build_index(tmp_path / "fewer.npy", tmp_path / "i", "8:60,32:5", resume=True)

    def test_an_index_that_exists_is_not_replaced(self, vectors, tmp_path):
        build_index(vectors, tmp_path / "i", "8:60,32:5")

        with pytest.raises(InputError, match="exists already"):
            build_index(vectors, tmp_path / "i", "8:60,32:5")


class TestAdd:
    def test_rows_come_in_with_the_fields_that_they_have(self, words, notes, write_lines, tmp_path):
        build_index(
            notes, tmp_path / "i", "8:60,32:5", model=words, fields={"year": int, "place": str}
        )
        more = write_lines("more.jsonl", [{"id": "m", "text": "late thing", "year": 2030}])

        added = add_to_index(tmp_path / "i", more, model=words)

        assert (added["added"], added["rows"]) == (1, 120)
        with Index.open(tmp_path / "i") as index:
            assert index.get(["m"]).fields == {"year": [2030], "place": [None]}
            assert add_to_index(index, more, model=words, upsert=True)["rows"] == 120

    def test_ids_that_are_there_are_refused_unless_they_may_be_replaced(
        self, words, notes, tmp_path
    ):
        build_index(notes, tmp_path / "i", "8:60,32:5", model=words)

        with pytest.raises(InputError, match="are in the index already"):
            add_to_index(tmp_path / "i", notes, model=words)
        assert add_to_index(tmp_path / "i", notes, model=words, upsert=True)["rows"] == 119

    def test_rows_of_another_space_are_refused(self, words, notes, corpus, tmp_path):
        build_index(notes, tmp_path / "i", "8:60,32:5", model=words)
        other = Space("words", 32, revision="2")
        write_vectors(tmp_path / "rows.matryo", corpus, range(400), space=other, side=Side.DOCUMENT)

        with pytest.raises(SpaceMismatchError, match="they differ in revision"):
            add_to_index(tmp_path / "i", tmp_path / "rows.matryo")


class TestSearch:
    def test_it_finds_what_the_index_finds_for_the_encoded_text(
        self, words, notes, counting, tmp_path
    ):
        build_index(notes, tmp_path / "i", "8:60,32:5", model=words, fields={"year": int})
        where = ["year", ">=", 2050]

        found = search_index(
            tmp_path / "i", "thing99 colour1", model=words, k=4, where=where, explain=True
        )

        query = counting(["thing99 colour1"])
        with Index.open(tmp_path / "i") as index:
            hits = index.search(query, k=4, where=where)
            steps = index.explain(query, k=4, where=where)[0]
        assert [hit["id"] for hit in found["hits"]] == hits.ids[0]
        assert [hit["score"] for hit in found["hits"]] == hits.scores[0].tolist()
        assert all(hit["fields"]["year"] >= 2050 for hit in found["hits"])
        assert [
            (s["name"], s["rows_read"], s["bytes_read"], s["rows_kept"]) for s in found["steps"]
        ] == [(step.name, step.rows_read, step.bytes_read, step.rows_kept) for step in steps]
        assert found["complete"]

    def test_a_model_of_another_space_is_refused_before_anything_is_encoded(
        self, words, vectors, counting, tmp_path
    ):
        build_index(vectors, tmp_path / "i", "8:60,32:5")

        with pytest.raises(SpaceMismatchError, match="this index holds vectors of an unnamed"):
            search_index(tmp_path / "i", "thing", model=words)
        assert counting.count == 0

    def test_a_filter_that_no_row_matches_answers_nothing(self, words, notes, tmp_path):
        build_index(notes, tmp_path / "i", "8:60,32:5", model=words, fields={"year": int})

        found = search_index(tmp_path / "i", "thing", model=words, where=["year", ">", 3000])

        assert found["hits"] == []
        assert not found["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_memory_stays_bounded(suffix, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = np.random.default_rng(0).standard_normal((150_000, 512), dtype=np.float32)
    if suffix == ".npy":
        np.save(tmp_path / "rows.npy", rows)
    else:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 512)
        pq.write_table(pa.table({"vector": lists}), tmp_path / "rows.parquet")
    code = (
        "import sys; from matryo.jobs.indexing import build_index; import pyarrow.parquet\n"
        "def anonymous():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('RssAnon')) / 1024\n"
        "most, start = 0, anonymous()\n"
        "def progress(*_):\n"
        "    global most; most = max(most, anonymous())\n"
        "build_index(*sys.argv[1:3], '128@binary:500,512:10', batch=8192, progress=progress)\n"
        "print(max(most, anonymous()) - start)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / f"rows{suffix}", tmp_path / "i"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert float(done.stdout) < 150  # MB; the vectors are 307
