"""The subject of a release: an exported commit of this repository, and its metadata."""

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
        """Export HEAD into `folder`, without uncommitted changes.

        `source` is the URL of the repository with the commit, by default that in pyproject.toml.
        Raises ReleaseError if the versions of package and chart differ.
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
            f"failed to run 'git {' '.join(arguments)}' in {ROOT}: "
            f"{error.stderr.decode().strip()}\n"
            "A release needs a commit: run it in a clone of the repository."
        ) from error


def _version(folder: Path) -> str:
    """The version that the package and the chart agree on."""
    text = (folder / "gpuid_operator" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    chart = yaml.safe_load((folder / "charts/gpuid-operator/Chart.yaml").read_text())
    versions = {str(found and found[1]), str(chart["version"]), str(chart["appVersion"])}
    if len(versions) > 1:
        raise ReleaseError(
            f"the version of the package ({found and found[1]}), of the chart ({chart['version']}) "
            f"and its appVersion ({chart['appVersion']}) differ: set all three to the same version"
        )
    return versions.pop()
