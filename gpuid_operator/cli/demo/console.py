"""How the demo talks to its user, and how Ctrl-C ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C before the table, as in shells."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """The demo cannot go on. The message says what failed, why, and what to do."""


def say(text: str) -> None:
    """Print a line of progress."""
    click.echo(text, err=True)


def catch_signals() -> None:
    """Let each signal that ends the demo raise KeyboardInterrupt."""
    for number in _SIGNALS:
        # A shell starts background jobs with SIGINT ignored.
        signal.signal(number, _interrupt)


def _interrupt(number: int, _: Any) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore a second Ctrl-C while the demo cleans up."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
