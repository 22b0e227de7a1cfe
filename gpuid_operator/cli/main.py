"""The command `gpuid-operator`."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any, Final

import click

from gpuid_operator import __version__

_COMMANDS: Final = {
    "cluster": "gpuid_operator.cli.cluster",
    "crds": "gpuid_operator.cli.crds",
    "demo": "gpuid_operator.cli.demo",
}
"""Modules that define the command of this name. They are imported on demand: `run` starts in every
pod and needs none of them, and the image does not contain `cluster` and `demo`."""


class _Commands(click.Group):
    """The commands of this module and of the modules in `_COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        present = [name for name, module in _COMMANDS.items() if importlib.util.find_spec(module)]
        return sorted([*super().list_commands(ctx), *present])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        if importlib.util.find_spec(module) is None:
            raise click.ClickException(
                f"the command {cmd_name!r} is not part of the image; install the Python package"
                " gpuid-operator to use it"
            )
        command: Any = getattr(importlib.import_module(module), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - what the table says
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpuid-operator")
def main() -> None:
    """Which physical GPU sits behind which Kubernetes node: now, before, and what changed."""


@main.command()
def run() -> None:
    """Run the operator, configured by environment variables: see docs/configuration.md."""
    # Importing the libraries of the operator takes a second; other commands do not wait for it.
    from gpuid_operator.operator.app import main as run_operator

    code = run_operator()
    # Skips the shutdown of the interpreter: threads of obstore may use it during the shutdown, and
    # abort (docs/adr/0009). No output is lost: the log is not buffered.
    os._exit(code)
