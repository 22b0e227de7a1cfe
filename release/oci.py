"""Images and artifacts as an OCI layout: a folder of blobs under their digests, and an index of
names. The same input gives the same bytes. https://github.com/opencontainers/image-spec
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
NAME: Final = "org.opencontainers.image.ref.name"

Document = dict[str, Any]


def iso(epoch: int) -> str:
    """Seconds since 1970 as RFC 3339."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Layout:
    """A folder in the form of an OCI layout, written from scratch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        shutil.rmtree(folder, ignore_errors=True)
        self._blobs.mkdir(parents=True)
        self._named: list[Document] = []
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, content: bytes, media_type: str) -> Document:
        """Store a blob; returns its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self._blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def json(self, document: Document, media_type: str) -> Document:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return self.blob(text.encode(), media_type)

    def manifest(
        self,
        *,
        config: Document,
        layers: Sequence[Document],
        annotations: Mapping[str, str],
        artifact_type: str | None = None,
        subject: Document | None = None,
    ) -> Document:
        """Store a manifest; returns its descriptor."""
        document: Document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": list(layers),
            "annotations": dict(annotations),
        }
        if artifact_type:
            document["artifactType"] = artifact_type
        if subject:
            document["subject"] = {key: subject[key] for key in ("mediaType", "digest", "size")}
        return self.json(document, MANIFEST)

    def index(self, manifests: Sequence[Document], annotations: Mapping[str, str]) -> Document:
        """Store an index of images, each descriptor with its platform; returns its descriptor."""
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": list(manifests),
            "annotations": dict(annotations),
        }
        return self.json(document, INDEX)

    def name(self, descriptor: Document, name: str | None = None) -> None:
        """List a manifest in the index of the layout, under a name if one is given."""
        annotations = {"annotations": {NAME: name}} if name else {}
        self._named.append(descriptor | annotations)
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self._named}
        (self.folder / "index.json").write_text(json.dumps(document))


def tar_of(folder: Path, *, prefix: str, epoch: int) -> bytes:
    """A folder as a tar that depends on names, contents and executable bits alone.

    Every entry belongs to root, has the time `epoch`, is under `prefix` and is readable by all.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folder.rglob("*"), key=lambda one: one.relative_to(folder).parts):
            name = f"{prefix}{path.relative_to(folder)}"
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.mode = epoch, 0o644
            if path.is_symlink():
                entry.type, entry.linkname, entry.mode = (
                    tarfile.SYMTYPE,
                    str(path.readlink()),
                    0o777,
                )
                archive.addfile(entry)
            elif path.is_dir():
                entry.type = tarfile.DIRTYPE
                entry.mode = 0o1777 if name in ("tmp", "var/tmp") else 0o755
                archive.addfile(entry)
            else:
                content = path.read_bytes()
                entry.size = len(content)
                entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def diff_id(tar: bytes) -> str:
    """The digest of a layer before compression."""
    return f"sha256:{hashlib.sha256(tar).hexdigest()}"
