"""What is released: a commit of this repository, exported, and what it says of itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from release.errors import ReleaseError

ROOT: Final = Path(__file__).parent.parent


@dataclass(frozen=True)
class Project:
    """A commit: its files in `folder`, its id and time (seconds since 1970), and its metadata."""

    folder: Path
    commit: str
    epoch: int
    version: str
    name: str
    description: str
    authors: str
    license: str
    source: str

    @classmethod
    def export(cls, folder: Path, *, source: str | None = None) -> Project:
        """Export HEAD into `folder`; what is not committed is not released.

        `source` is where the commit can be had from, by default what pyproject.toml says. Raises
        ReleaseError where package and chart differ in their version.
        """
        archive = folder.with_suffix(".tar")
        archive.write_bytes(_git("archive", "--format=tar", "HEAD"))
        shutil.unpack_archive(archive, folder)
        archive.unlink()
        commit, epoch = _git("show", "--no-patch", "--format=%H %ct", "HEAD").decode().split()
        about: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        version = _version(folder)
        return cls(
            folder=folder,
            commit=commit,
            epoch=int(epoch),
            version=version,
            name=about["name"],
            description=about["description"],
            authors=", ".join(one["name"] for one in about["authors"]),
            license=about["license"],
            source=source or about["urls"]["Source"],
        )


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True
        ).stdout
    except subprocess.CalledProcessError as error:
        raise ReleaseError(
            f"'git {' '.join(arguments)}' in {ROOT} failed: {error.stderr.decode().strip()}\n"
            "A release is made from a commit: run it in a clone of the repository."
        ) from error


def _version(folder: Path) -> str:
    """The version that the package and the chart agree on."""
    text = (folder / "gpuid_operator" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    chart = yaml.safe_load((folder / "charts/gpuid-operator/Chart.yaml").read_text())
    versions = {str(found and found[1]), str(chart["version"]), str(chart["appVersion"])}
    if len(versions) > 1:
        raise ReleaseError(
            f"the package's version ({found and found[1]}), the chart's ({chart['version']}) and "
            f"its appVersion ({chart['appVersion']}) differ: make them one"
        )
    return versions.pop()
