"""The prose outside the package: its form, its words, and the decision records."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs" / "adr"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/*/*.md")]
FOLDERS = ("charts", "deployment", "docs", "release", "scripts")
ARCHAIC = re.compile(
    r"\b(anew|whoever|mend(s|ed|ing)?|illegible|stumbl(e|es|ed|ing)|the way of a)\b", re.IGNORECASE
)
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(rf"{FENCED.pattern}|`[^`\n]*`", re.MULTILINE | re.DOTALL)
"""Code, which quotes what the operator prints."""


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def texts() -> list[Path]:
    """Every text file that people read, except those generated from the package."""
    suffixes = {".md", ".yaml", ".tpl", ".txt", ".lua", ".py", ".sh"}
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files = [path for path in files if path.suffix in suffixes and path.parent.name != "crds"]
    return [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "Dockerfile", *files]


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in RECORDS]
    assert numbers == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("record", RECORDS, ids=name)
def test_every_decision_has_the_same_form_and_is_in_the_index(record: Path) -> None:
    text, number = read(record), record.name[:4]
    head = rf"# {number}: (.+)\n\n- Status: .+\n- Date: (\d{{4}}-\d\d-\d\d)\n\n## Context\n"
    found = re.match(head, text)
    assert found, f"{record.name} does not begin with title, Status, Date and Context"
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    row = f"| [{number}]({record.name}) | {found[1]} | {found[2]} |"
    assert row in read(DECISIONS / "README.md")


def test_references_name_decisions_that_exist() -> None:
    known = {path.name[:4] for path in RECORDS}
    for path in [*texts(), *(ROOT / "gpuid_operator").rglob("*.py")]:
        cited = set(re.findall(r"(?:docs/adr/|\bADR )(\d{4})", read(path)))
        assert cited <= known, f"{name(path)} cites {cited - known}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paragraphs_are_not_hard_wrapped(page: Path) -> None:
    prose = FENCED.sub("", read(page))
    plain = r"(?!\s*(?:[|#<>]|[-*] |\d+\. )).+"
    wrapped = re.search(rf"^.*\w.*\n(?={plain}$)", prose, re.MULTILINE)
    assert not wrapped, f"{name(page)}: a paragraph goes over several lines: {wrapped[0]!r}"


@pytest.mark.parametrize("path", texts(), ids=name)
def test_prose_has_no_archaic_words(path: Path) -> None:
    prose = QUOTED.sub("", read(path)) if path.suffix == ".md" else read(path)
    assert [found[0] for found in ARCHAIC.finditer(prose)] == []


def test_the_readme_links_the_glossary_and_the_index_of_decisions() -> None:
    readme = read(ROOT / "README.md")
    assert "](docs/glossary.md)" in readme
    assert "](docs/adr/README.md)" in readme
