"""The menu: `nox -s lint`, `nox -s tests`, … each in an environment of its own.

In an environment that holds `.[dev]` already, `nox --no-venv --no-install -s lint` runs a session
right there. What CI runs (`.ci/run`) is made of the same sessions.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "venv"

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
DEV = ("-c", "constraints.txt", "-e", ".[dev]")
OFFLINE = {"HF_HUB_OFFLINE": "1"}
# A checkout is built with its native kernel, and without a warning, or not at all.
KERNEL = {"MATRYO_REQUIRE_KERNEL": "1", "MATRYO_WERROR": "1"}
# What every benchmark writes; CONTRIBUTING.md says what stands in each.
BENCHMARK_KEYS = {"benchmark", "commit", "machine", "data", "results"}


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, style, imports between the parts, and types."""
    kernel = sorted(map(str, [*Path("kernel").glob("*.cpp"), *Path("kernel").glob("*.hpp")]))
    session.install(*DEV, env=KERNEL)
    session.run("clang-format", "--dry-run", "-Werror", *kernel)
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("lint-imports", "--no-logo")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests that take seconds; further arguments go to pytest."""
    session.install(*DEV, env=KERNEL)
    session.run("pytest", "-m", "not slow", *session.posargs, env=OFFLINE)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take longer; further arguments go to pytest."""
    session.install(*DEV, env=KERNEL)
    session.run("pytest", "-m", "slow", *session.posargs, env=OFFLINE)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the kernel's tests on a build by GCC that stops at bad access and undefined behaviour."""
    session.install(*DEV, env=KERNEL)
    with tempfile.TemporaryDirectory() as folder:
        pip = ("python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder)
        # warnings may stand here: what a sanitizer adds to the code makes compilers guess wrongly
        session.run(*pip, ".", env={"MATRYO_REQUIRE_KERNEL": "1", "MATRYO_SANITIZE": "1"})
        watched = {
            **OFFLINE,
            "PYTHONPATH": folder,
            # a sanitizer has to be there before Python, and follows exceptions into libstdc++
            "LD_PRELOAD": " ".join(_library(session, name) for name in ("asan", "stdc++")),
            # Python keeps much until it ends, and hands out small objects from blocks of its own
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
        }
        loaded = "import matryo.search._kernel as k; assert k.__file__.startswith({!r}), k.__file__"
        session.run("python", "-c", loaded.format(folder), env=watched)
        # what a sanitizer says before it stops goes past Python
        caught = ("--capture=sys", "-k", "kernel", *session.posargs)
        session.run("pytest", "tests/search", *caught, env=watched)


def _library(session: nox.Session, name: str) -> str:
    """Path of a library that comes with GCC."""
    found = session.run("c++", f"-print-file-name=lib{name}.so", external=True, silent=True)
    return str(Path(str(found).strip()).resolve())


@nox.session
def demo(session: nox.Session) -> None:
    """Run the README's first command where there is neither torch nor a network."""
    session.install(".[demo]")
    session.run("python", "-c", "import importlib.util as i; assert i.find_spec('torch') is None")
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        session.run("matryo", "demo", env=OFFLINE)
        for name in ("results.json", "report.html"):
            file = Path(name)
            if not file.is_file() or not file.stat().st_size:
                session.error(f"matryo demo left no {name}")


@nox.session
def bench(session: nox.Session) -> None:
    """Run every benchmark in its quick form and check the shape of what it writes."""
    session.install(*DEV, env=KERNEL)
    for script in sorted(Path("benchmarks").glob("[!_]*.py")):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "figures.json")
            session.run("python", str(script), "--quick", "--json", str(target), env=OFFLINE)
            missing = BENCHMARK_KEYS - json.loads(target.read_text("utf-8")).keys()
        if missing:
            session.error(f"{script}: its JSON lacks {', '.join(sorted(missing))}")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site; a broken link fails."""
    session.install(*PROJECT["optional-dependencies"]["docs"])
    session.run("zensical", "build", "--strict", "--clean")


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest versions that `pyproject.toml` allows, and no extras."""
    oldest = [requirement.replace(">=", "==") for requirement in PROJECT["dependencies"]]
    tools = [
        requirement
        for requirement in PROJECT["optional-dependencies"]["dev"]
        if re.match(r"pytest|hypothesis", requirement)
    ]
    session.install(*oldest, *tools, "-e", ".")
    # old versions warn of one another, and of nothing that could be mended here
    quiet = ("-W", "ignore::DeprecationWarning")
    session.run("pytest", "-m", "not slow", *quiet, *session.posargs, env=OFFLINE)
