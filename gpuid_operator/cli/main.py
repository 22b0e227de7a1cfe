"""The command `gpuid-operator`."""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

import click

from gpuid_operator import __version__

_COMMANDS: Final = {
    "cluster": "gpuid_operator.cli.cluster",
    "crds": "gpuid_operator.cli.crds",
    "demo": "gpuid_operator.cli.demo",
}
"""Modules that hold a command of their name; loaded only when asked for, since `run` starts in
every pod and needs none of them."""


class _Commands(click.Group):
    """The commands defined here, and those of other modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            command: Any = getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name)
            assert isinstance(command, click.Command)  # noqa: S101 - what the table says
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpuid-operator")
def main() -> None:
    """Which physical GPU sits behind which Kubernetes node: now, before, and what changed."""


@main.command()
def run() -> None:
    """Run the operator. Its settings come from the environment: see docs/configuration.md."""
    # The operator's libraries take a second to load, which other commands need not wait for.
    from gpuid_operator.operator.app import main as run_operator

    code = run_operator()
    # Not by way of the interpreter's own end: threads of obstore may touch it while it is taken
    # down, and abort (docs/adr/0009). Nothing is buffered: the log writes to its descriptor.
    os._exit(code)
