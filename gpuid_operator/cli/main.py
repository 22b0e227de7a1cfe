"""The command `gpuid-operator`."""

from __future__ import annotations

import os

import click

from gpuid_operator import __version__
from gpuid_operator.cli.cluster import cluster
from gpuid_operator.cli.crds import crds
from gpuid_operator.cli.demo import demo


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
    # down, and abort (docs/adr/0011). Nothing is buffered: the log writes to its descriptor.
    os._exit(code)


main.add_command(cluster)
main.add_command(crds)
main.add_command(demo)
