"""The manifests without Helm: `install.yaml`, and the folder deployment/ as an archive.

`install.yaml` is what `kubectl kustomize deployment/base` prints, with the comments of its files
and the image by digest. A test compares the two, so that a release needs no kustomize.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from release.errors import ReleaseError
from release.oci import tar_of
from release.project import Project

INSTALL: Final = "install.yaml"
BASE: Final = "deployment/base"

_KNOWN: Final = {"apiVersion", "kind", "resources", "images"}
_TAG: Final = {"name", "newTag"}
_IMAGE: Final = re.compile(r"^( +image: )gpuid-operator$", re.MULTILINE)


def install(root: Path, image: str) -> str:
    """The objects of the base of the source tree `root`, CRDs first; every pod runs `image`.

    Raises ReleaseError if the base uses what only kustomize can do.
    """
    documents = [text for path in _resources(root / BASE) for text in _documents(path)]
    text = "---\n".join(documents)
    text, count = _IMAGE.subn(lambda found: f"{found[1]}{image}", text)
    if count != 1:
        raise ReleaseError(
            f"failed to write {INSTALL}: {count} lines of {BASE} name the image gpuid-operator; "
            "there must be one"
        )
    return text


def archive(project: Project, gzip: Callable[[bytes], bytes], dist: Path) -> str:
    """Write the folder deployment/ as an archive into `dist`; returns its file name."""
    name = f"{project.name}-{project.version}-deployment.tar.gz"
    tar = tar_of(project.folder / "deployment", prefix="deployment/", epoch=project.epoch)
    (dist / name).write_bytes(gzip(tar))
    return name


def _resources(folder: Path) -> Iterator[Path]:
    """The files of a kustomization, in its order."""
    kustomization: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = kustomization.keys() - _KNOWN
    # The digest replaces a tag; anything else in `images` would be lost.
    unknown |= {key for one in kustomization.get("images", ()) for key in one} - _TAG
    if unknown:
        raise ReleaseError(
            f"failed to write {INSTALL}: {folder.name}/kustomization.yaml has "
            f"{', '.join(sorted(unknown))}; add it to release/manifests.py"
        )
    for name in kustomization["resources"]:
        path = folder / name
        if path.is_dir():
            yield from _resources(path)
        else:
            yield path


def _documents(path: Path) -> Iterator[str]:
    for text in re.split(r"^---\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        if text.strip():
            yield text.rstrip("\n") + "\n"
