"""The prose of the project and the names in its code: form, words, and the decision records."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs" / "adr"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/*/*.md")]
FOLDERS = ("charts", "deployment", "docs", "release", "scripts")
CODE = ("gpuid_operator", "tests", "release", "scripts")
ARCHAIC = re.compile(
    r"(?<![a-z])(anew|whoever|mend(s|ed|ing)?|illegible|stumbl(e|es|ed|ing)|in[ _]doubt|upkeep"
    r"|scribes?|parcels?|outlets?|suspects?|verdicts?|whereabouts|(is|are|was|were) told"
    r"|way of a change|the way of a|could not be had)(?![a-z])",
    re.IGNORECASE,
)
"""Words that this field does not use, in prose and in identifiers."""
INVERTED = re.compile(r"\b(What is|Of [a-z]+|Kept (are|is))\b")
"""Beginnings of sentences that have to be read twice; what is no beginning has no capital."""
OLD_CLASSES = {
    *("Upkeep", "Held", "Inventories", "Fleet", "Force", "Terms", "Outcome", "Suspects", "Scribe"),
    *("Verdict", "Committer", "Written", "Watcher", "Channel", "Parcel", "Outbox", "Outlet"),
    *("Notes", "Backlog", "Book", "InventoryBook", "RunnerBook", "CheckRuns", "NoAnswer"),
    *("EventPosts", "Whereabouts", "Stay", "Replay", "Situation", "WatchedSecrets"),
    *("Gate", "Door", "Ambush"),
}
OLD_FUNCTIONS = {
    *("consider", "_look", "halves", "keep_on", "in_doubt", "in_force", "ruling", "ranked", "upto"),
    *("tell", "whereabouts", "stays", "is_illegible"),
}
OLD_MODULES = {
    *("answers", "backlog", "book", "channel", "commit", "event_posts", "fleet", "held", "outlet"),
    *("outlets", "parcel", "machines", "probes", "replay", "runner_book", "upkeep", "whereabouts"),
}
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


def sources() -> list[Path]:
    """Every text file of the code, except this one, which names the words."""
    suffixes = {".py", ".go", ".sh", ".yaml", ".md", ".txt"}
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*")]
    return sorted(path for path in files if path.suffix in suffixes and path != Path(__file__))


def found_in(pattern: re.Pattern[str], text: str) -> list[str]:
    """Each match, with the number and the text of its line."""
    lines = text.splitlines()
    numbers = [text.count("\n", 0, match.start()) for match in pattern.finditer(text)]
    return [f"{number + 1}: {lines[number].strip()}" for number in numbers]


def old_names(tree: ast.AST) -> Iterator[str]:
    """The definitions in a module that have a name from before the redesign."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in OLD_CLASSES:
            yield f"{node.lineno}: class {node.name}"
        functions = ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, functions) and node.name in OLD_FUNCTIONS:
            yield f"{node.lineno}: def {node.name}"


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
    assert found_in(ARCHAIC, prose) == []
    assert found_in(INVERTED, prose) == []


@pytest.mark.parametrize("path", sources(), ids=name)
def test_code_has_no_archaic_words(path: Path) -> None:
    assert found_in(ARCHAIC, read(path)) == []
    assert found_in(INVERTED, read(path)) == []


@pytest.mark.parametrize("path", [p for p in sources() if p.suffix == ".py"], ids=name)
def test_code_has_the_names_of_the_field(path: Path) -> None:
    assert path.stem not in OLD_MODULES
    assert list(old_names(ast.parse(read(path)))) == []


def test_archaic_words_are_found_in_prose_and_identifiers() -> None:
    text = "begun anew\nself._parcel\nParcel()\nIN_DOUBT\nhe is told\nrecommended\nin no doubt\n"
    assert [line.partition(":")[0] for line in found_in(ARCHAIC, text)] == ["1", "2", "3", "4", "5"]
    text = "Of equals the oldest\n# What is left\nKept are ten\nof ten\nwhat is left\n"
    assert [line.partition(":")[0] for line in found_in(INVERTED, text)] == ["1", "2", "3"]
    tree = ast.parse("class Parcel:\n    def in_force(self): ...\nclass OutboxEntry: ...\n")
    assert list(old_names(tree)) == ["1: class Parcel", "2: def in_force"]


def test_the_readme_links_the_glossary_and_the_index_of_decisions() -> None:
    readme = read(ROOT / "README.md")
    assert "](docs/glossary.md)" in readme
    assert "](docs/adr/README.md)" in readme
