"""The files of a release that users download, their checksums, and the signature of these.

The file names have no folders, as on a page with downloads. The registry has the same files as an
artifact, `VERSION-files`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from release.oci import EMPTY, Document, Layout
from release.policies import FOLDER, NAMES
from release.signer import Signer

CHECKSUMS: Final = "checksums.txt"
BUNDLE: Final = f"{CHECKSUMS}.sigstore.json"
PUBLIC_KEY: Final = "cosign.pub"
ARTIFACT: Final = "application/vnd.gpuid-operator.release.files"

_TITLE: Final = "org.opencontainers.image.title"  # `oras pull` writes the blob to this file


def write_checksums(dist: Path, signer: Signer) -> None:
    """Write the public key of the signer, and the signed checksums of all files, to `dist`."""
    key = signer.public_key()
    if key:
        (dist / PUBLIC_KEY).write_text(key)
    else:
        (dist / PUBLIC_KEY).unlink(missing_ok=True)
    lines = [f"{_sha256(path)}  {path.name}\n" for path in _subjects(dist)]
    (dist / CHECKSUMS).write_text("".join(lines))
    signer.sign(dist / CHECKSUMS, dist / BUNDLE)


def downloads(dist: Path) -> list[Path]:
    """All files of a release that is signed, with the checksums and their signature."""
    return [*_subjects(dist), dist / CHECKSUMS, dist / BUNDLE]


def as_artifact(dist: Path, version: str) -> Path:
    """All files as an artifact `VERSION-files`, in a layout of its own in `dist`; its folder."""
    layout = Layout(dist / "oci-files")
    layers = []
    for path in downloads(dist):
        layer = layout.blob(path.read_bytes(), "application/octet-stream")
        layers.append(layer | {"annotations": {_TITLE: path.name}})
    config = layout.blob(b"{}", EMPTY)
    artifact = layout.manifest(config=config, layers=layers, annotations={}, artifact_type=ARTIFACT)
    layout.name(artifact, f"{version}-files")
    return layout.folder


def _subjects(dist: Path) -> list[Path]:
    """Every file of the release in `dist`, by name; never the private key."""
    release: Document = json.loads((dist / "release.json").read_text())
    names = [*release["files"], "release.json", "provenance.json"]
    names += [f"sbom-{name}.spdx.json" for name in ("index", *release["platforms"])]
    names += [f"{FOLDER}/{name}.yaml" for name in NAMES]
    if (dist / PUBLIC_KEY).exists():
        names.append(PUBLIC_KEY)
    return sorted((dist / name for name in names), key=lambda path: path.name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
