"""`kubectl gpuid`: the kubectl plugin, which uses the kubeconfig of its user.

This module imports only click, so that `--help` responds at once; each command imports what it
needs.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from gpuid_operator import __version__

if TYPE_CHECKING:
    from gpuid_operator.cli.plugin_clusters import Clusters

PROGRAM: Final = "kubectl gpuid"
_TABLES: Final = ("table", "wide", "json", "csv")

Suggest = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def _suggest(kind: str) -> Suggest:
    def suggestions(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        from gpuid_operator.cli import plugin_complete

        given = ctx.params.get(param.name or "")
        return plugin_complete.suggestions(
            kind,
            incomplete,
            kubeconfig=ctx.params.get("kubeconfig"),
            contexts=_chosen(ctx.params.get("context"), ctx.params.get("contexts")),
            given=given if isinstance(given, tuple) else (),
        )

    return suggestions


def _chosen(context: str | None, contexts: str | None) -> tuple[str, ...]:
    """The requested contexts without duplicates; empty: the current context of the kubeconfig."""
    names = [context] if context else (contexts or "").split(",")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _connection(*, several: bool) -> Callable[[Any], Any]:
    """The options that select the clusters."""
    options = [
        click.option(
            "--kubeconfig",
            metavar="FILE",
            type=click.Path(dir_okay=False),
            help="Path of the kubeconfig (default: KUBECONFIG, or ~/.kube/config).",
        ),
        click.option(
            "--context",
            metavar="NAME",
            help="Context in the kubeconfig (default: the current context).",
            shell_complete=_suggest("context"),
        ),
    ]
    if several:
        options.append(
            click.option(
                "--contexts",
                metavar="NAME,NAME…",
                help="Contexts of several clusters to query in parallel.",
                shell_complete=_suggest("contexts"),
            )
        )

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _output(*formats: str) -> Callable[[Any], Any]:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="Output format.",
    )


def _run(
    answer: Callable[[Clusters], Awaitable[bool]],
    *,
    kubeconfig: str | None,
    context: str | None,
    contexts: str | None = None,
) -> None:
    """Query the clusters and exit: 0 if `answer` returns True, else 1."""
    if context and contexts is not None:
        raise click.UsageError("--context and --contexts are mutually exclusive")
    names = _chosen(context, contexts)
    if contexts is not None and not names:
        raise click.BadParameter("contains no context name", param_hint="--contexts")
    from gpuid_operator.cli.plugin_clusters import run

    sys.exit(run(answer, kubeconfig=kubeconfig, contexts=names))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Which physical GPU sits behind which Kubernetes node: now, before, and what changed.

    Reads the GPUInventory objects of gpuid-operator with your own kubeconfig and permissions.
    """


@cli.command()
@click.argument("identifier", metavar="SERIAL|UUID", shell_complete=_suggest("gpu"))
@click.option(
    "--scan",
    is_flag=True,
    help="Search the history of every node, not only of nodes whose labels name the GPU"
    " (the labels keep the newest 100 past identifiers of a node).",
)
@_output(*_TABLES)
@_connection(several=True)
def where(*, identifier: str, scan: bool, output: str, **connection: Any) -> None:
    """Show where a GPU is and where it was.

    Takes the serial or UUID of a GPU, or the serial of a chassis for all GPUs in it. GPUs of one
    board share a serial: each GPU is listed. The exit code is 1 if no node ever had the GPU.
    """
    from gpuid_operator.cli import plugin_where

    _run(
        lambda clusters: plugin_where.where(clusters, identifier, scan=scan, output=output),
        **connection,
    )


@cli.command()
@click.argument("subject", metavar="NODE|SERIAL|UUID", shell_complete=_suggest("subject"))
@_output(*_TABLES)
@_connection(several=True)
def history(*, subject: str, output: str, **connection: Any) -> None:
    """Show the history of a node or of a GPU.

    The history of a GPU covers every node that it was behind. Oldest entries first.
    """
    from gpuid_operator.cli import plugin_history

    _run(lambda clusters: plugin_history.history(clusters, subject, output=output), **connection)


@cli.command(name="list")
@click.option("--serials", is_flag=True, help="One row per GPU instead of one per node.")
@_output(*_TABLES)
@_connection(several=True)
def list_nodes(*, serials: bool, output: str, **connection: Any) -> None:
    """List nodes and their GPUs."""
    from gpuid_operator.cli import plugin_list

    _run(
        lambda clusters: plugin_list.list_nodes(clusters, by_gpu=serials, output=output),
        **connection,
    )


@cli.command()
@click.argument("nodes", metavar="NODE…", nargs=-1, shell_complete=_suggest("node"))
@click.option("--all", "every", is_flag=True, help="Read all nodes that are not departed.")
@click.option(
    "--timeout",
    metavar="DURATION",
    default="60s",
    show_default=True,
    help="Time to wait for each node, such as 90s or 5m.",
)
@_output("table", "json")
@_connection(several=False)
def read(
    *, nodes: tuple[str, ...], every: bool, timeout: str, output: str, **connection: Any
) -> None:
    """Read nodes now and show the results.

    The exit code is 0 only if every read is successful. Requires permission to patch
    gpuinventories.
    """
    from gpuid_operator.api.values import parse_duration
    from gpuid_operator.cli import plugin_read

    if bool(nodes) == every:
        raise click.UsageError("specify either node names or --all")
    try:
        seconds = parse_duration(timeout).total_seconds()
    except ValueError as error:
        raise click.BadParameter(f"{timeout!r} is not {error}", param_hint="--timeout") from None
    _run(
        lambda clusters: plugin_read.read(clusters, nodes, timeout=seconds, output=output),
        **connection,
    )


@cli.command()
@click.argument("identifier", metavar="SERIAL|UUID", shell_complete=_suggest("gpu"))
@click.option("--reason", metavar="TEXT", required=True, help="Why, such as 'Xid 79 three times'.")
@click.option("--ticket", metavar="URL", help="Where the case is tracked.")
@click.option(
    "--taint",
    is_flag=True,
    help="Keep new pods off a node that has the part, if the operator allows taints.",
)
@click.option("--chassis", is_flag=True, help="The serial is that of a chassis: all GPUs in it.")
@click.option("--name", metavar="NAME", help="Name of the object (default: from the identifier).")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml"]),
    help="Print the file for git, and write nothing to the cluster.",
)
@_connection(several=True)
def quarantine(
    *,
    identifier: str,
    reason: str,
    ticket: str | None,
    taint: bool,
    chassis: bool,
    name: str | None,
    output: str | None,
    **connection: Any,
) -> None:
    """Condemn a GPU, wherever it turns up.

    Writes a GPUQuarantine, which you lift with `kubectl delete gpuq NAME`. Requires permission to
    create gpuquarantines.
    """
    from gpuid_operator.cli import plugin_quarantine

    request = plugin_quarantine.Request(
        identifier=identifier,
        reason=reason,
        ticket=ticket,
        taint=taint,
        chassis=chassis,
        name=name,
    )
    if output == "yaml":
        plugin_quarantine.print_manifest(request)
        return
    _run(lambda clusters: plugin_quarantine.quarantine(clusters, request), **connection)


@cli.command()
@_output("csv", "json")
@_connection(several=True)
def export(*, output: str, **connection: Any) -> None:
    """Export every GPU of the fleet, one row each.

    Rows are written as they arrive, so that a fleet may have any size. The GPUs of a departed node
    are listed as last known, with the state Departed.
    """
    from gpuid_operator.cli import plugin_list

    _run(lambda clusters: plugin_list.export(clusters, output=output), **connection)


@cli.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port on 127.0.0.1 (default: a free one).",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@_connection(several=True)
def ui(*, port: int, no_browser: bool, **connection: Any) -> None:
    """Show the fleet live on a read-only page, on this machine only, until Ctrl-C."""
    from gpuid_operator.cli.ui import command

    _run(lambda clusters: command.ui(clusters, port=port, browser=not no_browser), **connection)


def main() -> None:
    """Entry point of `kubectl-gpuid`, which kubectl runs as `kubectl gpuid`."""
    cli(prog_name=PROGRAM)


def complete() -> None:
    """Entry point of `kubectl_complete-gpuid`, which kubectl runs for shell completion."""
    from gpuid_operator.cli import plugin_complete

    plugin_complete.answer(cli, sys.argv[1:])
