"""The pages of the documentation do what they say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
EXAMPLES = {
    page: "\n".join(
        re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    )
    for page in PAGES
}


@pytest.mark.parametrize(
    "page", [p for p in PAGES if EXAMPLES[p]], ids=lambda p: str(p.relative_to(DOCS))
)
def test_the_examples_of_a_page_run_as_they_stand(page, tmp_path, monkeypatch, capsys):
    if 'encoder("default")' in EXAMPLES[page]:
        pytest.importorskip("wordllama")
    monkeypatch.chdir(tmp_path)

    exec(compile(EXAMPLES[page], str(page), "exec"), {"__name__": page.stem})

    assert capsys.readouterr().out


def test_every_page_is_in_the_menu_and_the_menu_has_no_other():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]

    listed = re.findall(r"[\w/-]+\.md", str(nav))

    assert sorted(listed) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_links_between_pages_lead_somewhere():
    pages = [*PAGES, *ROOT.glob("*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
        if not link.startswith("http")
    ]

    assert [(page, link) for page, link in links if not (page.parent / link).exists()] == []
