"""The command: its options, its errors and its exit codes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from gpuid_operator.cli.cluster import SmiCommand, hardware_options
from gpuid_operator.cli.demo.console import INTERRUPTED, DemoError, catch_signals, say
from gpuid_operator.cli.demo.local import LocalDemo
from gpuid_operator.cli.demo.simulated import IMAGE
from gpuid_operator.cli.demo.user import UserDemo
from gpuid_operator.localcluster import LocalClusterError

_COMMAND_LINE: Final = ParameterSource.COMMANDLINE
_ONLY_LOCAL: Final = {"directory": "--dir", "nodes": "--nodes", "gpu": "--gpu", "smi": "--smi"}


@click.command(cls=SmiCommand)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the local cluster, which is kept (default: a temporary directory).",
)
@hardware_options
@click.option(
    "--context",
    metavar="NAME",
    help="Use the cluster of this context of your kubeconfig instead of a local one. The demo says"
    " what it creates there, asks, and removes it at the end.",
)
@click.option(
    "--image",
    metavar="IMAGE",
    help=f"With --context: image of the simulated GPUs, which needs python3 (default: {IMAGE}).",
)
@click.option("--yes", is_flag=True, help="With --context: do not ask.")
@click.option(
    "--once", is_flag=True, help="Exit after the table, with 0 only if all nodes are Ready."
)
def demo(
    *,
    directory: Path | None,
    nodes: int | None,
    gpu: str,
    smi: tuple[Path, ...],
    context: str | None,
    image: str | None,
    yes: bool,
    once: bool,
) -> None:
    """Run the operator on simulated GPU nodes: 20 in a local cluster, or those of --context."""
    if context is None and (image or yes):
        raise click.UsageError("--image and --yes need --context")
    if context is not None and (local := _given(_ONLY_LOCAL)):
        raise click.UsageError(f"{', '.join(local)}: only for a local cluster, without --context")
    catch_signals()
    run = (
        LocalDemo(directory=directory, nodes=nodes, gpu=gpu, smi=smi)
        if context is None
        else UserDemo(context=context, image=image or IMAGE, ask=not yes)
    )
    try:
        good = run(once=once)
    except (LocalClusterError, DemoError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        if not run.shown:
            say("interrupted; stopped the demo")
            sys.exit(INTERRUPTED)
        say("stopped the demo")
        return
    sys.exit(0 if good else 1)


def _given(options: Mapping[str, str]) -> list[str]:
    """Those of the options that the command line has."""
    source = click.get_current_context().get_parameter_source
    return [option for name, option in options.items() if source(name) is _COMMAND_LINE]
