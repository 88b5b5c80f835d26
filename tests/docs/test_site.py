"""The documentation builds without a warning, its links hold, and nothing in it comes from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from tests.conftest import PROJECT

DOCS = PROJECT / "docs"


class Page(HTMLParser):
    """A page's anchors, links, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") != "canonical" and "href" in given:
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "zensical.toml").write_text((PROJECT / "zensical.toml").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert "Warning" not in said
    return folder / "site"


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    nav = set(re.findall(r'"([\w/-]+\.md)"', (PROJECT / "zensical.toml").read_text()))
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert nav == there
    assert tomllib.loads((PROJECT / "zensical.toml").read_text())["project"]["theme"]["font"] is False
    for path in there:
        built = site / path.removesuffix("index.md").removesuffix(".md") / "index.html"
        assert built.is_file(), path
    assert not list(site.rglob("*.py"))


def test_links_and_what_pages_load_hold(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    base = "https://docs.example/"
    assert len(pages) > 20
    for path, page in pages.items():
        here = base + str(path.relative_to(site)).removesuffix("index.html")
        for link in [*page.links, *page.loaded]:
            target = urlsplit(urljoin(here, link))
            if f"{target.scheme}://{target.netloc}/" != base:
                assert link in page.links, f"{path.name} loads {link} from elsewhere"
                continue
            file = site / unquote(target.path).lstrip("/")
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{path.relative_to(site)}: {link}"
            if target.fragment and file in pages:
                assert unquote(target.fragment) in pages[file].ids, f"{path.relative_to(site)}: {link}"


def test_links_of_the_files_beside_the_source_hold() -> None:
    for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#\s]+)", (PROJECT / name).read_text()):
            assert "://" in link or (PROJECT / link).exists(), f"{name}: {link}"
