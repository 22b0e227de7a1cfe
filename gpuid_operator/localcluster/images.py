"""Container images made from files of this machine: no registry, no builder.

An image is a tar as `docker save` writes it, with one layer, which containerd imports.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from gpuid_operator.localcluster.errors import RealNodeUnavailable

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def build_image(
    destination: Path,
    *,
    name: str,
    files: Mapping[str, bytes | Path],
    links: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    user: str = "",
) -> Path:
    """Write an image to `destination` and return that path.

    `files` maps a path in the image to its content, or to a file or a folder of this machine that
    is copied; contents given as bytes are executable. `links` maps a path to what it points to.
    The same input gives the same bytes.
    """
    layer = _layer(files, links or {})
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Cmd": list(command),
            "Env": [
                f"{k}={v}" for k, v in ({"PATH": "/usr/bin:/bin"} | dict(environment or {})).items()
            ],
            "User": user,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "gpuid-operator"}],
    }
    document = json.dumps(config, sort_keys=True).encode()
    config_name = f"{hashlib.sha256(document).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(destination, "w", format=tarfile.GNU_FORMAT) as image:
        _add_bytes(image, "layer.tar", layer)
        _add_bytes(image, config_name, document)
        _add_bytes(image, "manifest.json", json.dumps(manifest).encode())
    return destination


def busybox() -> tuple[dict[str, bytes | Path], dict[str, str]]:
    """Files and links of a small userland with a shell, from this machine's static busybox."""
    program = shutil.which("busybox")
    listed = program and subprocess.run(
        [program, "--list"], capture_output=True, text=True, check=False
    )
    if not program or not listed or listed.returncode != 0:
        raise RealNodeUnavailable(
            "failed to build an image with a shell: busybox is not installed; run "
            "'apt-get install busybox-static'"
        )
    applets = [name for name in listed.stdout.split() if name != "busybox"]
    return {"/bin/busybox": Path(program)}, {f"/bin/{name}": "busybox" for name in applets}


def _layer(files: Mapping[str, bytes | Path], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as layer:
        folders: set[str] = set()
        for path, content in sorted(files.items()):
            _add_parents(layer, path, folders)
            if isinstance(content, bytes):
                _add_bytes(layer, path.lstrip("/"), content, mode=0o755)
            else:
                layer.add(content, path.lstrip("/"), filter=_anonymous)
        for path, target in sorted(links.items()):
            _add_parents(layer, path, folders)
            link = tarfile.TarInfo(path.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, target
            layer.addfile(link)
        for folder in ("proc", "sys", "dev", "tmp"):
            _add_parents(layer, f"/{folder}/any", folders)
    return buffer.getvalue()


def _add_parents(layer: tarfile.TarFile, path: str, known: set[str]) -> None:
    for parent in reversed(PurePosixPath(path.lstrip("/")).parents[:-1]):
        name = str(parent)
        if name not in known:
            known.add(name)
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            layer.addfile(entry)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove the owner and the time of a file, so that an image is reproducible."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry
