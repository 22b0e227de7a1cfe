"""`gpuid-operator cluster`: a local control plane with simulated GPU nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from gpuid_operator.localcluster import LocalCluster, LocalClusterError, down
from gpuid_operator.localcluster.smi_models import MODELS

_DIRECTORY: Final = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory of the cluster, which contains all of its files.",
)


class SmiCommand(click.Command):
    """A command whose --smi accepts several files, such as from a glob of a shell.

    `--smi a.xml b.xml` means `--smi a.xml --smi b.xml`: an option of click takes one value.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        files = False
        for argument in args:
            if argument.startswith("-"):
                files = argument == "--smi"
                if not files:
                    spread.append(argument)
            elif files:
                spread += ["--smi", argument]
            else:
                spread.append(argument)
        if args and args[-1] == "--smi":
            spread.append("--smi")  # click reports the missing value
        return super().parse_args(ctx, spread)


def hardware_options(command: Any) -> Any:
    """The options for the hardware of the simulated nodes."""
    for option in (
        click.option(
            "--smi",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            multiple=True,
            metavar="FILE…",
            help="Files with the output of nvidia-smi -q -x; one node per file, unless --nodes.",
        ),
        click.option(
            "--gpu",
            type=click.Choice(list(MODELS)),
            default="h100",
            show_default=True,
            help="Model of the generated GPUs.",
        ),
        click.option("--nodes", type=click.IntRange(0, 10_000), help="Number of simulated nodes."),
    ):
        command = option(command)
    return command


@click.group()
def cluster() -> None:
    """Manage a local cluster: a real control plane with simulated GPU nodes."""


@cluster.command(cls=SmiCommand)
@_DIRECTORY
@hardware_options
@click.option("--real-node", is_flag=True, help="Add a real node (needs root and containerd).")
def up(
    *, directory: Path, nodes: int | None, gpu: str, smi: tuple[Path, ...], real_node: bool
) -> None:
    """Start a cluster, which runs until `down`."""
    try:
        started = LocalCluster.up(
            directory, nodes=nodes, gpu=gpu, smi=smi, real_node=real_node, progress=click.echo
        )
    except LocalClusterError as error:
        raise click.ClickException(str(error)) from None
    click.echo(_usage(started))


@cluster.command(name="down")
@_DIRECTORY
def end(*, directory: Path) -> None:
    """Stop a cluster, also after a crash. Does nothing if no cluster runs."""
    try:
        down(directory)
    except LocalClusterError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"stopped the cluster in {directory}; its logs are in {directory / 'logs'}")


@cluster.command(name="restart-plugin")
@_DIRECTORY
@click.argument("node")
def restart_plugin(*, directory: Path, node: str) -> None:
    """Restart the target container of a simulated NODE: give it a new containerID."""
    try:
        container = LocalCluster.attach(directory).restart_plugin(node)
    except LocalClusterError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{node}: {container}")


def _usage(started: LocalCluster) -> str:
    directory = started.directory
    lines = [
        "",
        f"  export KUBECONFIG={started.kubeconfig}",
        "  kubectl get nodes",
        "  kubectl get pods -n gpu-operator -o wide",
    ]
    if started.node_names:
        node = started.node_names[0]
        lines += [
            "",
            f"The hardware of {node} is the file {started.smi_file(node)}.",
            "Change it, then restart the device plugin, as after a swap of GPUs:",
            "",
            f"  gpuid-operator cluster restart-plugin {node} --dir {directory}",
        ]
    lines += ["", "Stop the cluster with:", "", f"  gpuid-operator cluster down --dir {directory}"]
    return "\n".join(lines)
