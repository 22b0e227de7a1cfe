"""Start processes that outlive the caller, and end exactly those.

The pid, the start time and the boot id of the machine identify a process: the system reuses pids,
and `down` must never kill another process. The marker in its environment identifies a process
without a pid file (after a crash before the file was written, or a child of a server).
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
"""Children of this process, which has to reap them when they end."""


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
        """Send a signal, unless the process has ended, even if another process has its pid."""
        if not self.alive:
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise LocalClusterError(
                f"failed to signal process {self.pid}: it belongs to another user; run the"
                " command as that user"
            ) from None


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def caller_path() -> str:
    """The PATH of this process."""
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

    It inherits no pipes or files, so that a reader of the output of the caller sees its end.
    `environment` extends a minimal environment: variables of the user must not change the behaviour
    of a server.
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
    """End processes in this order: SIGTERM, at most `grace` seconds in all, SIGKILL."""
    deadline = time.monotonic() + grace
    for name in names:
        identity = find(layout, name)
        if identity is not None:
            end([identity], grace=max(0.0, deadline - time.monotonic()))
            (layout.run / f"{name}.json").unlink(missing_ok=True)


def end(identities: Iterable[Identity], *, grace: float) -> None:
    """Terminate processes; kill those that still run after `grace` seconds."""
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
    """Kill every process with the marker of this cluster, whatever its present parent is."""
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
