"""The documentation builds without a warning, its links resolve, and its pages load nothing from other hosts."""

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

from docs import make_api, make_cli
from tests.conftest import PROJECT
from tests.waiting import PATIENCE

DOCS = PROJECT / "docs"


class Page(HTMLParser):
    """A page's anchors, its links, and the resources that a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in ("script", "img", "iframe") and "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") != "canonical" and "href" in values:
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages, with the generated references in a copy of docs/."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for module in (make_api, make_cli):
        (folder / module.PAGE.relative_to(PROJECT)).write_text(module.page())
    (folder / "zensical.toml").write_text((PROJECT / "zensical.toml").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    assert "Warning" not in output
    return folder / "site"


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    nav = set(re.findall(r'"([\w/-]+\.md)"', (PROJECT / "zensical.toml").read_text()))
    pages = {str(path.relative_to(DOCS)) for path in [*DOCS.rglob("*.md"), make_api.PAGE, make_cli.PAGE]}
    assert nav == pages
    assert tomllib.loads((PROJECT / "zensical.toml").read_text())["project"]["theme"]["font"] is False
    for path in pages:
        built = site / path.removesuffix("index.md").removesuffix(".md") / "index.html"
        assert built.is_file(), path
    assert not list(site.rglob("*.py"))


def test_links_and_resources_resolve(site: Path) -> None:
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


def test_links_in_the_root_documents_resolve() -> None:
    for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#\s]+)", (PROJECT / name).read_text()):
            assert "://" in link or (PROJECT / link).exists(), f"{name}: {link}"
