"""The documentation builds as a site, offline, on which every link leads somewhere."""

from __future__ import annotations

import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SITE: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "site.py"))


class Page(HTMLParser):
    """The links of a page, what a link can lead to on it, and what a browser loads for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.classes: set[str] = set()
        self.components: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)
            if name == "class" and value:
                self.classes.update(value.split())
            if name == "data-md-component" and value:
                self.components.add(value)
            if value and (name in ("src", "srcset", "data") or (tag == "link" and name == "href")):
                self.loaded.append(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    SITE["stage"](folder)
    assert SITE["build"](folder) == 0
    return folder


def test_every_link_of_the_site_leads_somewhere(folder: Path) -> None:
    site = folder / "site"
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html") if path.stem != "404"}
    assert len(pages) == len(SITE["staged"]())
    dead = []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            file = (path.parent / target).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file() or (anchor and anchor not in pages[file].anchors):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_the_pages_load_nothing_from_another_host(folder: Path) -> None:
    """Neither by themselves, nor by the script of the theme, which loads Mermaid for diagrams and
    asks GitHub about the repository that a page shows."""
    pages = [Page(path.read_text()) for path in (folder / "site").rglob("*.html")]
    loaded = {one for page in pages for one in page.loaded}
    assert any(one.endswith(".js") for one in loaded)
    assert {one for one in loaded if re.match(r"\w+:|//", one)} == set()
    styles = "\n".join(path.read_text() for path in (folder / "site").rglob("*.css"))
    assert re.findall(r"(?:url\([\"']?|@import [\"'])(?:\w+:)?//[^)]*", styles) == []
    for page in pages:
        assert not page.classes & {"mermaid", "glightbox"}
        assert "source" not in page.components


def test_links_that_leave_the_site_lead_to_files_of_the_repository(folder: Path) -> None:
    repository = SITE["repository"]()
    text = "\n".join(path.read_text() for path in (folder / "docs").rglob("*.md"))
    found = set(re.findall(rf"\]\({repository}/(tree|blob)/main/([^)#\s]+)", text))
    assert ("blob", "Dockerfile") in found
    for kind, name in found:
        assert (ROOT / name).is_dir() if kind == "tree" else (ROOT / name).is_file(), name


def test_a_dead_link_fails_the_build(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    SITE["stage"](tmp_path)
    (tmp_path / "docs" / "glossary.md").write_text("# Glossary\n\n[x](checks.md#nothing)\n")
    assert SITE["build"](tmp_path) != 0
    assert "anchor does not exist" in "".join(capfd.readouterr())


def test_the_navigation_has_every_page(folder: Path) -> None:
    """Except the decisions and the alerts, which their index pages list."""
    text = (ROOT / "mkdocs.yml").read_text().partition("\nmarkdown_extensions:")[0]
    listed = [page for part in yaml.safe_load(text)["nav"] for page in leaves(part)]
    pages = [page for page in SITE["staged"]() if not re.match(r"adr/\d|runbooks/GPUID", page)]
    assert sorted(listed) == sorted(pages)
    links = Page((folder / "site" / "glossary.html").read_text()).links
    shown = {page.replace("README.md", "index.md").replace(".md", ".html") for page in pages}
    assert shown - {"glossary.html"} <= {link.removeprefix("./") for link in links}


def leaves(part: Any) -> list[str]:
    if isinstance(part, str):
        return [part]
    children = part.values() if isinstance(part, dict) else part
    return [page for child in children for page in leaves(child)]


@pytest.mark.parametrize("folder", ["adr", "runbooks"])
def test_the_index_of_a_folder_lists_its_pages(folder: str) -> None:
    index = (ROOT / "docs" / folder / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs" / folder).glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()
