"""Build the documentation as a site in build/site, offline: `make docs`.

The pages are written for GitHub. This script copies docs/ and the pages of `OUTSIDE` to build/docs,
points links between them at the copies, and links that leave them at the repository. zensical then
builds the copies with mkdocs.yml and fails on a link to a page or heading that does not exist.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"
OUTSIDE: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "charts/gpuid-operator/README.md": "chart.md",
}
"""Pages outside docs/ that the site has, and their names there."""

_LINK: Final = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)(#[^)\s]*)?(?=\))")
_CODE: Final = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
_PICTURE: Final = re.compile(r'(?<=(?:src|set)=")docs/')


def staged() -> dict[str, str]:
    """The pages of the site, by their path on it."""
    pages = {page.relative_to(ROOT).as_posix(): page for page in DOCS.rglob("*.md")}
    pages |= {name: ROOT / name for name in OUTSIDE}
    return {_target(name): _relinked(page, pages) for name, page in pages.items()}


def _target(name: str) -> str:
    return OUTSIDE.get(name, name.removeprefix("docs/"))


def _relinked(page: Path, pages: dict[str, Path]) -> str:
    """The text of a page with the links that work on the site."""
    depth = _target(page.relative_to(ROOT).as_posix()).count("/")

    def link(match: re.Match[str]) -> str:
        file = (page.parent / match[1]).resolve()
        name = file.relative_to(ROOT).as_posix()
        if name in pages or (file.is_relative_to(DOCS) and file.is_file()):
            return "../" * depth + _target(name) + (match[2] or "")
        kind = "tree" if file.is_dir() else "blob"
        return f"{repository()}/{kind}/main/{name}{match[2] or ''}"

    parts = _CODE.split(page.read_text(encoding="utf-8"))
    parts[::2] = [_PICTURE.sub("", _LINK.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def repository() -> str:
    """The address of the project, which pyproject.toml has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Source"])


def stage(folder: Path) -> None:
    """Write mkdocs.yml and the pages, as docs/, into `folder`."""
    shutil.rmtree(folder / "docs", ignore_errors=True)
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("*.md"))
    for name, text in staged().items():
        path = folder / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "mkdocs.yml", folder)


def build(folder: Path) -> int:
    """Build site/ from what `stage` wrote into `folder`; the exit code of zensical."""
    shutil.rmtree(folder / "site", ignore_errors=True)
    zensical = Path(sys.executable).parent / "zensical"
    command = [zensical, "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    stage(ROOT / "build")
    sys.exit(build(ROOT / "build"))
