"""The operator of the demo: a child of this process, with a log of its own."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gpuid_operator.cli.demo.console import DemoError, say, undisturbed

_GRACE: Final = 12.0
"""Seconds until an operator that does not end is killed."""
_LOG_LINES: Final = 15
_PR_SET_PDEATHSIG: Final = 1


class OperatorProcess:
    """The running operator."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log
        """The file with its output."""

    def check(self) -> None:
        """Raise DemoError with the end of the log if the operator has ended."""
        if self._process.poll() is not None:
            raise self._ended()

    def wait(self) -> None:
        """Wait until the operator ends, then raise DemoError."""
        self._process.wait()
        raise self._ended()

    def _ended(self) -> DemoError:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return DemoError(
            f"the operator ended with exit code {self._process.returncode}; the end of its log"
            f" {self.log}:\n" + "\n".join(lines or ["(empty)"])
        )


@contextmanager
def run_operator(folder: Path, environment: Mapping[str, str]) -> Iterator[OperatorProcess]:
    """Run the operator in `folder`, which gets its log, and with no other variables than these.

    It has its own session, so that Ctrl-C reaches only this process, and ends with this process
    (on Linux), however that ends.
    """
    log = folder / "operator.log"
    say("starting the operator")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpuid_operator", "run"],
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent(),
        )
    try:
        yield OperatorProcess(process, log)
    finally:
        with undisturbed():
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_with_parent() -> Callable[[], object] | None:
    """What a child calls to get SIGTERM when this process ends; None where Linux is not there.

    Otherwise a demo that is killed would leave the operator working in a cluster.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
