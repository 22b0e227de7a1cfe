"""Runs the node's own nvidia-smi in a container that sees the node's files under a folder.

`python -m gpuid_operator.cli.host_smi FOLDER` is the command of the chart's reader pods in mode
hostDriver. It becomes `nvidia-smi -q -x`, with the library of the same driver in LD_PRELOAD.
LD_LIBRARY_PATH would make the program use the node's C library, too, and crash.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_ROOTS: Final = ("run/nvidia/driver", ".")
"""Roots of a driver. That of a driver container comes first: it exists only while one runs."""
_PROGRAM: Final = "nvidia-smi"
_PROGRAM_FOLDERS: Final = (
    *("usr/bin", "opt/bin", "usr/sbin", "bin", "sbin", "usr/local/bin"),
    *("home/kubernetes/bin/nvidia/bin", "usr/local/nvidia/bin"),  # GKE
)
_LIBRARY: Final = "libnvidia-ml.so.1"
_LIBRARY_FOLDERS: Final = (
    *("usr/lib64", f"usr/lib/{os.uname().machine}-linux-gnu", "usr/lib"),
    *("lib64", f"lib/{os.uname().machine}-linux-gnu", "lib"),
    *("home/kubernetes/bin/nvidia/lib64", "usr/local/nvidia/lib64"),  # GKE
)
_MAX_LINKS: Final = 40
"""Symbolic links in one path, as in the kernel."""
_NOT_FOUND: Final = 127
"""The exit code of a shell that does not find a command."""


def find(folder: Path) -> tuple[Path, Path] | None:
    """nvidia-smi and libnvidia-ml of one driver under a folder; None if there is no driver."""
    for root in _ROOTS:
        program = _first(folder / root, _PROGRAM_FOLDERS, _PROGRAM)
        library = _first(folder / root, _LIBRARY_FOLDERS, _LIBRARY)
        if program and library:
            return program, library
    return None


def _first(root: Path, folders: tuple[str, ...], name: str) -> Path | None:
    return next(_files(root, folders, name), None)


def _files(root: Path, folders: tuple[str, ...], name: str) -> Iterator[Path]:
    for folder in folders:
        path = _resolve(root, f"{folder}/{name}")
        if path is not None and path.is_file():
            yield path


def _resolve(root: Path, path: str) -> Path | None:
    """The file at a path as a process with this root sees it: absolute links stay below the root.

    None if a link leads nowhere.
    """
    parts, at, links = [*reversed(PurePosixPath(path).parts)], root, 0
    while parts:
        part = parts.pop()
        if part in ("/", ".."):
            at = root if part == "/" or at == root else at.parent
            continue
        at /= part
        try:
            target = at.readlink()
        except OSError:  # no link, or nothing
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        at = at.parent
        parts += reversed(target.parts)
    return at


def main(arguments: list[str]) -> int:
    """Become nvidia-smi; returns an exit code only if there is none."""
    (folder,) = arguments
    found = find(Path(folder))
    if found is not None:
        program, library = found
        variables = {key: text for key, text in os.environ.items() if key != "LD_LIBRARY_PATH"}
        variables["LD_PRELOAD"] = str(library)
        os.execve(program, [_PROGRAM, "-q", "-x"], variables)  # noqa: S606 - needs no shell
    print(
        f"no driver under {folder}: found no {_PROGRAM} with {_LIBRARY} in the folders of this"
        " node's driver; set reader.hostDriver.root to its root",
        file=sys.stderr,
    )
    return _NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
