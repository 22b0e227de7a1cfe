"""The plugin `kubectl gpuid` for krew, https://krew.sigs.k8s.io: an archive and its manifest.

The archive holds the wheel, the lock of its dependencies and a launcher, which installs both into a
virtual environment at the first start. So one archive serves every platform and every Python that
the dependencies have wheels for; with the wheels inside, each platform and Python needed its own.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import yaml

from release.oci import tar_of
from release.project import Project

MANIFEST: Final = "gpuid.yaml"
"""krew takes the name of the plugin from the name of the file."""
PLATFORMS: Final = [(os, arch) for os in ("linux", "darwin") for arch in ("amd64", "arm64")]
BINARY: Final = "kubectl-gpuid"

_DESCRIPTION: Final = """\
Shows which physical GPU sits behind which node, where it was before, and what
changed. It reads the GPUInventory objects that gpuid-operator keeps in the
cluster, with your own rights.
"""
_CAVEATS: Final = """\
Needs Python 3.11 or newer with the module venv. At its first start the plugin
installs its Python packages from the package index that pip uses, each with a
locked hash, into its own folder.
"""


def build(
    project: Project, wheel: Path, *, dist: Path, gzip: Callable[[bytes], bytes]
) -> list[str]:
    """Write the archive and the manifest into `dist`; returns their file names."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        launcher = folder / BINARY
        shutil.copyfile(project.folder / "release/kubectl-gpuid.sh", launcher)
        launcher.chmod(0o755)
        shutil.copyfile(project.folder / "requirements/runtime.txt", folder / "requirements.txt")
        for path in (wheel, project.folder / "LICENSE"):
            shutil.copyfile(path, folder / path.name)
        content = gzip(tar_of(folder, prefix="", epoch=project.epoch))
    archive = f"{BINARY}-{project.version}.tar.gz"
    (dist / archive).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    (dist / MANIFEST).write_text(manifest(project, archive=archive, sha256=sha256))
    return [archive, MANIFEST]


def manifest(project: Project, *, archive: str, sha256: str) -> str:
    """The manifest as YAML. The archive is where a release on the forge has it."""
    platforms = [
        {
            "selector": {"matchLabels": {"os": os, "arch": arch}},
            "uri": f"{project.source}/releases/download/v{project.version}/{archive}",
            "sha256": sha256,
            "bin": BINARY,
        }
        for os, arch in PLATFORMS
    ]
    document = {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "gpuid"},
        "spec": {
            "version": f"v{project.version}",
            "homepage": project.source,
            "shortDescription": "Show which GPU is on which node, now and before",
            "description": _DESCRIPTION,
            "caveats": _CAVEATS,
            "platforms": platforms,
        },
    }
    return yaml.safe_dump(document, sort_keys=False)
