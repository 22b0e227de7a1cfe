"""Pushes the result of `make dist` to a registry: the image with its referrers, attested; the
chart; all files as one artifact. Digests are the same in every registry; only attestations differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from release import tools
from release.files import as_artifact
from release.image import Progress
from release.oci import Document
from release.signer import PROVENANCE, SBOM, Signer


def publish(dist: Path, registry: str, signer: Signer, progress: Progress) -> str:
    """Push everything in `dist` to a registry (`host/path`); returns the image as name@digest.

    `write_checksums` has to be done.
    """
    release: Document = json.loads((dist / "release.json").read_text())
    name, version = release["name"], release["version"]
    image = f"{registry.rstrip('/')}/{name}"
    progress(f"pushing {image}:{version}")
    oci = dist / "oci"
    _copy(oci, f"{version}-base", f"{image}:{version}-base")
    _copy(oci, version, f"{image}:{version}", "--recursive")
    for digest, sbom in _subjects(dist, release):
        tag = f"{digest.replace(':', '-')}.sbom"
        _copy(oci, tag, f"{image}:{tag}")
        subject = f"{image}@{digest}"
        progress(f"attesting {subject}")
        signer.attest(subject, kind=PROVENANCE, predicate=dist / "provenance.json")
        signer.attest(subject, kind=SBOM, predicate=sbom)
    chart = f"{registry.rstrip('/')}/charts/{name}"
    progress(f"pushing {chart}:{version}")
    _copy(oci, f"{version}-chart", f"{chart}:{version}")
    _copy(oci, f"{version}-bundle", f"{image}:{version}-bundle")
    progress(f"pushing {image}:{version}-files")
    _copy(as_artifact(dist, version), f"{version}-files", f"{image}:{version}-files")
    return f"{image}@{release['image']}"


def _subjects(dist: Path, release: Document) -> Iterator[tuple[str, Path]]:
    """The index and each platform's image, with their bills of materials."""
    for name, digest in {"index": release["image"], **release["platforms"]}.items():
        yield digest, dist / f"sbom-{name}.spdx.json"


def _copy(layout: Path, tag: str, target: str, *options: str) -> None:
    source = f"{layout}:{tag}"
    tools.run("oras", "copy", "--no-tty", "--from-oci-layout", *options, source, target)
