"""Kernel resources of containers: control groups and mount points."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")


def create_cgroup(name: str) -> None:
    """Create a control group in every hierarchy; a kubelet requires that its root exists."""
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)
    cpuset = _ROOT / "cpuset" / name
    if cpuset.is_dir():  # in version 1 a new group has no processors until it is given some
        for file in ("cpuset.cpus", "cpuset.mems"):
            (cpuset / file).write_text((cpuset.parent / file).read_text())


def remove_cgroup(name: str) -> None:
    """Kill every process in a control group and below, and remove the groups."""
    groups = [hierarchy / name for hierarchy in _hierarchies() if (hierarchy / name).is_dir()]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pids = {pid for group in groups for pid in _pids(group)}
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for group in groups:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):  # a dying process may hold it for a moment
                Path(folder).rmdir()


def make_mount_points(paths: Iterable[str], record: Path) -> None:
    """Create missing mount points, and record which ones were created."""
    missing = [p for path in paths for p in (Path(path), *Path(path).parents) if not p.exists()]
    record.write_text(json.dumps(sorted({str(path) for path in missing})))
    for path in paths:
        Path(path).mkdir(parents=True, exist_ok=True)


def remove_mount_points(record: Path) -> None:
    """Remove the recorded mount points that are empty."""
    if record.exists():
        for path in reversed(json.loads(record.read_text())):
            with contextlib.suppress(OSError):
                Path(path).rmdir()


def _hierarchies() -> list[Path]:
    """The mounted hierarchies: one in version 2, one per controller in version 1."""
    if not _ROOT.is_dir():
        return []
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink()]


def _pids(group: Path) -> list[int]:
    found: list[int] = []
    for procs in group.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            found += [int(line) for line in procs.read_text().split()]
    return found
