"""`kubectl gpuid`: which GPU is behind which node, asked with the user's own kubeconfig.

Only click is imported here: `--help` has to answer at once, and the rest is loaded by the command
that needs it.
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
    """The contexts that were asked for, each once; none means the kubeconfig's current one."""
    names = [context] if context else (contexts or "").split(",")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _connection(*, several: bool) -> Callable[[Any], Any]:
    """The options that say which clusters to ask."""
    options = [
        click.option(
            "--kubeconfig",
            metavar="FILE",
            type=click.Path(dir_okay=False),
            help="Path of the kubeconfig (default: KUBECONFIG, else ~/.kube/config).",
        ),
        click.option(
            "--context",
            metavar="NAME",
            help="Context of the kubeconfig (default: its current one).",
            shell_complete=_suggest("context"),
        ),
    ]
    if several:
        options.append(
            click.option(
                "--contexts",
                metavar="NAME,NAME…",
                help="Contexts of several clusters to ask at the same time.",
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
        help="Format of the answer.",
    )


def _run(
    answer: Callable[[Clusters], Awaitable[bool]],
    *,
    kubeconfig: str | None,
    context: str | None,
    contexts: str | None = None,
) -> None:
    """Ask the clusters and end the process: 0 when `answer` is content, else 1."""
    if context and contexts is not None:
        raise click.UsageError("give either --context or --contexts")
    names = _chosen(context, contexts)
    if contexts is not None and not names:
        raise click.BadParameter("names no context", param_hint="--contexts")
    from gpuid_operator.cli.plugin_clusters import run

    sys.exit(run(answer, kubeconfig=kubeconfig, contexts=names))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Which physical GPU sits behind which Kubernetes node: now, before, and what changed.

    It reads the GPUInventory objects that gpuid-operator keeps, with your own kubeconfig and your
    own rights.
    """


@cli.command()
@click.argument("identifier", metavar="SERIAL|UUID", shell_complete=_suggest("gpu"))
@click.option(
    "--scan",
    is_flag=True,
    help="Read the history of every node, not only of those whose labels name the GPU"
    " (labels keep the newest 100 past identifiers of a node).",
)
@_output(*_TABLES)
@_connection(several=True)
def where(*, identifier: str, scan: bool, output: str, **connection: Any) -> None:
    """Where a GPU is and where it was.

    Takes a GPU's serial or UUID, or the serial of a chassis for all GPUs in it. GPUs of one board
    share a serial: each is listed. Ends with 1 when no node ever had it.
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
    """What happened to a node or to a GPU.

    Of a GPU: on every node that it was behind, merged. Oldest first.
    """
    from gpuid_operator.cli import plugin_history

    _run(lambda clusters: plugin_history.history(clusters, subject, output=output), **connection)


@cli.command(name="list")
@click.option("--serials", is_flag=True, help="One row per GPU instead of one per node.")
@_output(*_TABLES)
@_connection(several=True)
def list_nodes(*, serials: bool, output: str, **connection: Any) -> None:
    """The nodes and their GPUs."""
    from gpuid_operator.cli import plugin_list

    _run(
        lambda clusters: plugin_list.list_nodes(clusters, by_gpu=serials, output=output),
        **connection,
    )


@cli.command()
@click.argument("nodes", metavar="NODE…", nargs=-1, shell_complete=_suggest("node"))
@click.option("--all", "every", is_flag=True, help="All nodes that are not departed.")
@click.option(
    "--timeout",
    metavar="DURATION",
    default="60s",
    show_default=True,
    help="How long to wait for each node, such as 90s or 5m.",
)
@_output("table", "json")
@_connection(several=False)
def read(
    *, nodes: tuple[str, ...], every: bool, timeout: str, output: str, **connection: Any
) -> None:
    """Have nodes read now, and wait for it.

    Ends with 1 unless every node was read well. Needs the right to patch gpuinventories.
    """
    from gpuid_operator.api.values import parse_duration
    from gpuid_operator.cli import plugin_read

    if bool(nodes) == every:
        raise click.UsageError("give the nodes to read, or --all")
    try:
        seconds = parse_duration(timeout).total_seconds()
    except ValueError as error:
        raise click.BadParameter(f"{timeout!r} is not {error}", param_hint="--timeout") from None
    _run(
        lambda clusters: plugin_read.read(clusters, nodes, timeout=seconds, output=output),
        **connection,
    )


@cli.command()
@_output("csv", "json")
@_connection(several=True)
def export(*, output: str, **connection: Any) -> None:
    """Every GPU of the fleet, one row each.

    They are written as they come, whatever the size of the fleet. GPUs of a departed node are
    listed as last known: their state is Departed.
    """
    from gpuid_operator.cli import plugin_list

    _run(lambda clusters: plugin_list.export(clusters, output=output), **connection)


def main() -> None:
    """Entry point of `kubectl-gpuid`, which kubectl runs as `kubectl gpuid`."""
    cli(prog_name=PROGRAM)


def complete() -> None:
    """Entry point of `kubectl_complete-gpuid`, which kubectl asks what could come next."""
    from gpuid_operator.cli import plugin_complete

    plugin_complete.answer(cli, sys.argv[1:])
