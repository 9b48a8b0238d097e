"""The fences between the parts hold, and the documents say what is there."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from matryo.core import Registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "matryo"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONTRACTS = {contract["id"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}
PACKAGES = sorted(
    {file.parent.name for file in SOURCE.glob("*/__init__.py")}
    | {file.stem for file in SOURCE.glob("[!_]*.py")}
)

# Libraries that are slow to load; a verb that needs one imports it when it is called.
HEAVY = {
    "faiss", "h5py", "ir_measures", "jinja2", "onnx", "onnxruntime", "openai", "pandas",
    "plotly", "pyarrow", "pytrec_eval", "safetensors", "scipy", "sentence_transformers", "sklearn",
    "tokenizers", "torch", "transformers", "wordllama",
}  # fmt: skip

IMPORT = "import matryo"
HELP = "import sys; sys.argv = ['matryo', '--help']; from matryo.cli import main; main()"


def _run(code):
    """Run Python code in a process that may keep compiled files, as an installed copy does."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def _loaded_by(code):
    """Names of the packages outside the standard library that are loaded once `code` has run."""
    report = "import atexit, json, sys; before = set(sys.modules)\natexit.register(lambda: print("
    report += "'\\n' + json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before}))))\n"
    done = _run(report + code)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1])) - set(sys.stdlib_module_names)


def _cpu_seconds(code):
    """The least CPU time of five runs, started with whatever the first one compiled."""
    resource = pytest.importorskip("resource")
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert _run(code).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_importing_matryo_loads_numpy_at_most():
    assert _loaded_by(IMPORT) <= {"matryo", "numpy"}


def test_asking_for_help_loads_no_heavy_library():
    assert not _loaded_by(HELP) & HEAVY


def test_a_library_that_were_loaded_would_be_seen():
    assert {"matryo", "scipy"} <= _loaded_by("import matryo, scipy")


def test_importing_and_asking_for_help_are_quick():
    assert _cpu_seconds(IMPORT) < 0.3
    assert _cpu_seconds(HELP) < 0.6


@pytest.mark.parametrize("name", ["matryo", *(f"matryo.{package}" for package in PACKAGES)])
def test_a_package_lists_its_public_names_in_order_and_has_them(name):
    package = importlib.import_module(name)

    names = list(package.__all__)

    assert names == sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert [n for n in names if not hasattr(package, n)] == []
    assert [n for n in names if _undocumented(getattr(package, n))] == []


def _undocumented(thing):
    text = inspect.getdoc(thing) or ""
    is_code = inspect.isclass(thing) or inspect.isroutine(thing)
    # a dataclass without a docstring is given its own signature as one
    return is_code and (not text or text.startswith(f"{thing.__name__}("))


FACES = {"planning.exits", "training.evaluator", "training.run", "training.sentence_transformers"}


def test_parts_import_the_public_names_of_each_other():
    behind = []
    for file in (ROOT / "src" / "matryo").rglob("*.py"):
        own = file.relative_to(ROOT / "src" / "matryo").parts[0]
        for part, module in re.findall(
            r"^\s*from matryo\.(\w+)\.([\w.]+) import", file.read_text("utf-8"), re.MULTILINE
        ):
            if part != own and f"{part}.{module}" not in FACES:
                behind.append(f"{file.name}: matryo.{part}.{module}")

    assert behind == []


def test_every_plugin_names_an_extra_that_exists():
    extras = set(PROJECT["project"]["optional-dependencies"])
    packages = [importlib.import_module(f"matryo.{package}") for package in PACKAGES]
    registries = [r for package in packages for r in vars(package).values()]

    entries = [r.about(name) for r in registries if isinstance(r, Registry) for name in r]

    assert {entry.extra for entry in entries if entry and entry.extra} <= extras


def test_the_architecture_page_names_every_part_and_every_layer_in_order():
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    drawn = re.findall(r"^    ([a-z]+(?: \| [a-z]+)*)  +\S", page, flags=re.MULTILINE)
    optional = re.compile(r"\((\w+)\)")
    present = [
        " | ".join(part for part in optional.sub(r"\1", layer).split(" | ") if part in PACKAGES)
        for layer in CONTRACTS["layers"]["layers"]
    ]

    assert drawn == [layer for layer in present if layer]


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package that may be spoiled."""
    shutil.copytree(SOURCE, tmp_path / "matryo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def _lint_imports(folder, *options):
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports_command as c; c(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_import_keeps_the_contracts(checkout):
    done = _lint_imports(checkout)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("contract", "file", "line", "named"),
    [
        ("layers", "core/nesting.py", "import matryo.search", "matryo.core.nesting"),
        ("layers", "search/scan.py", "import matryo.evaluation", "matryo.search.scan"),
        ("layers", "cli/__init__.py", "import matryo.testing", "matryo.cli"),
        ("layers", "utils/__init__.py", "", "utils"),
        ("encoders", "encoders/static.py", "import matryo.encoders.openai", "static"),
        ("encoders", "encoders/novel.py", "", "novel"),
        ("light-spine", "report/__init__.py", "import sentence_transformers", "matryo.report"),
        ("torch-fence", "encoders/static.py", "import torch", "matryo.encoders.static"),
        ("root-is-a-face", "core/plan.py", "from matryo import truncate", "matryo.core.plan"),
        ("acyclic", "core/precision.py", "import matryo.core.plan", "matryo.core"),
    ],
)
def test_a_broken_fence_is_seen(checkout, contract, file, line, named):
    target = checkout / "matryo" / file
    target.parent.mkdir(exist_ok=True)
    with target.open("a", encoding="utf-8") as stream:
        # inside a function, where an import is as much an import as at the top
        stream.write(f"\n\ndef _late():\n    {line or 'pass'}\n")

    done = _lint_imports(checkout, "--contract", contract)

    assert done.returncode == 1, done.stdout + done.stderr
    assert named in done.stdout


def test_every_contract_has_been_seen_to_break():
    (mark,) = test_a_broken_fence_is_seen.pytestmark

    assert {case[0] for case in mark.args[1]} == set(CONTRACTS)
