"""Start processes that outlive the caller, and end exactly those.

A process is known by its pid, the time when it started and the boot of the machine: a pid alone is
reused, and `down` must never kill a stranger. What has no pid file (a crash between the start and
the file, a child of a server) is found by the marker in its environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster.errors import LocalClusterError
from gpuid_operator.localcluster.layout import Layout, write_atomically

_POLL: Final = 0.02
_children: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""Processes that this very process started: it has to collect them when they end."""


@dataclass(frozen=True)
class Identity:
    """One process, for as long as the machine is up and beyond."""

    pid: int
    started: int
    """Clock ticks between the machine's boot and the process's start (field 22 of its stat)."""
    boot: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this pid now, None when there is none or it is a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The second field is the name in parentheses, which may itself hold any character.
        fields = stat[stat.rindex(")") + 2 :].split()
        if fields[0] in "ZX":
            return None
        return cls(pid=pid, started=int(fields[19]), boot=_boot())

    @property
    def alive(self) -> bool:
        if (child := _children.get(self.pid)) is not None and child.poll() is not None:
            del _children[self.pid]
        return Identity.of(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone or its pid belongs to another by now."""
        if not self.alive:
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise LocalClusterError(
                f"process {self.pid} of the cluster belongs to another user: run this as that user"
            ) from None


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def caller_path() -> str:
    """Where programs of this machine are found."""
    return os.environ.get("PATH", os.defpath)


def start(
    layout: Layout,
    name: str,
    argv: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    path: str | None = None,
) -> Identity:
    """Start a process in a session of its own, with its output in `logs/NAME.log`.

    It keeps none of the caller's pipes or files open, so that a caller whose output is piped ends
    when it ends. `environment` is added to a bare one: what a user's shell exports must not change
    what a server does.
    """
    bare = {key: os.environ[key] for key in ("HOME", "TMPDIR") if key in os.environ}
    bare["PATH"] = path or caller_path()
    marker, _, directory = layout.marker.partition("=")
    layout.logs.mkdir(parents=True, exist_ok=True)
    layout.run.mkdir(parents=True, exist_ok=True)
    with (layout.logs / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=layout.directory,
            env=bare | dict(environment or {}) | {marker: directory},
            start_new_session=True,
        )
    _children[child.pid] = child
    identity = Identity.of(child.pid) or Identity(pid=child.pid, started=-1, boot=_boot())
    write_atomically(layout.run / f"{name}.json", json.dumps(asdict(identity)).encode())
    return identity


def find(layout: Layout, name: str) -> Identity | None:
    """The process that was started under this name, running or not."""
    try:
        return Identity(**json.loads((layout.run / f"{name}.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_running(layout: Layout, name: str) -> bool:
    identity = find(layout, name)
    return identity is not None and identity.alive


def running(layout: Layout) -> list[str]:
    """Names of the cluster's processes that are alive."""
    names = sorted(path.stem for path in layout.run.glob("*.json")) if layout.run.is_dir() else []
    return [name for name in names if is_running(layout, name)]


def stop(layout: Layout, names: Iterable[str], *, grace: float) -> None:
    """End processes in this order: ask, wait `grace` seconds in all, then kill."""
    deadline = time.monotonic() + grace
    for name in names:
        identity = find(layout, name)
        if identity is not None:
            end([identity], grace=max(0.0, deadline - time.monotonic()))
            (layout.run / f"{name}.json").unlink(missing_ok=True)


def end(identities: Iterable[Identity], *, grace: float) -> None:
    """Ask processes to end; kill those that have not after `grace` seconds."""
    waiting = [identity for identity in identities if identity.alive]
    for identity in waiting:
        identity.signal(signal.SIGTERM if grace else signal.SIGKILL)
    deadline = time.monotonic() + grace
    while (waiting := [one for one in waiting if one.alive]) and time.monotonic() < deadline:
        time.sleep(_POLL)
    for identity in waiting:
        identity.signal(signal.SIGKILL)
    while any(identity.alive for identity in waiting):
        time.sleep(_POLL)


def end_marked(layout: Layout) -> None:
    """Kill every process that carries this cluster's marker, whoever its parent is by now."""
    for _ in range(10):  # a process may start another between the listing and its end
        if not (found := marked(layout)):
            return
        end(found, grace=0)


def marked(layout: Layout) -> list[Identity]:
    """Processes of this user that carry the cluster's marker in their environment."""
    wanted = layout.marker.encode()
    own = os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # gone, or another user's
            continue
        if wanted in environment.split(b"\0") and (identity := Identity.of(int(entry.name))):
            found.append(identity)
    return found
