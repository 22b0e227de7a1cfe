"""The guide of the demo: commands to paste into another terminal."""

from __future__ import annotations

import shlex
import shutil
import sys
import uuid
from pathlib import Path

from gpuid_operator.api.inventory import GPU, Inventory
from gpuid_operator.api.meta import GROUP, INVENTORY_PLURAL, VERSION
from gpuid_operator.cli.demo.simulated import NAMESPACE
from gpuid_operator.localcluster import LocalCluster

_HISTORY = (
    """-o jsonpath='{range .status.history[*]}{.time} {.type} {.serial} {.uuid}{"\\n"}{end}'"""
)


def guide(cluster: LocalCluster, *, node: str | None, log: Path) -> str:
    """The text of the guide. Its commands are the indented lines, and work in this order.

    `node` is a simulated node with a successful read, for examples; `log` that of the operator.
    """
    sections = [
        ("The demo runs until Ctrl-C. In another terminal, start with:", [_exports(cluster)]),
        ("The table again, with machines, chassis and serials:", ["kubectl get gpuinv -o wide"]),
    ]
    if node:
        sections.append(
            (
                f"All facts about {node}, and the labels of its Node:",
                [
                    f"kubectl get gpuinv {node} -o yaml",
                    f"kubectl get node {node} --show-labels",
                ],
            )
        )
        if gpus := _gpus(cluster, node):
            sections += _swap(cluster, node, gpus)
    sections.append(_records(log))
    return _text(sections)


def user_guide(context: str, *, node: str | None, pod: str | None, log: Path) -> str:
    """The guide for a cluster of the user. `pod` has the simulated GPUs of `node`."""
    kubectl = f"kubectl --context {shlex.quote(context)}"
    sections = [
        (
            "The demo runs until Ctrl-C, and then removes what it created. In another terminal:",
            [f"{kubectl} get gpuinv -o wide"],
        ),
    ]
    if node and pod:
        sections += [
            (
                f"All facts about {node}, and the labels of its Node:",
                [
                    f"{kubectl} get gpuinv {node} -o yaml",
                    f"{kubectl} get node {node} --show-labels",
                ],
            ),
            (
                f"Swap a GPU of {node}; the container restarts, as after a real swap:",
                [f"{kubectl} exec -n {NAMESPACE} {pod} -- swap-gpu 0"],
            ),
            (
                "A moment later the history shows the removed and the added GPU:",
                [f"{kubectl} get gpuinv {node} {_HISTORY}"],
            ),
        ]
    sections.append(_records(log))
    return _text(sections)


def _text(sections: list[tuple[str, list[str]]]) -> str:
    return "\n".join(
        line
        for title, commands in sections
        for line in ("", title, *(f"  {command}" for command in commands))
    )


def _records(log: Path) -> tuple[str, list[str]]:
    return (
        "The records in its sink, the log (docs/sinks.md has the others):",
        [f"grep 'gpu serial number reading' {shlex.quote(str(log))}"],
    )


def _exports(cluster: LocalCluster) -> str:
    """KUBECONFIG, and a PATH with those of our programs that the user's does not have."""
    folders: list[Path] = []
    if shutil.which("gpuid-operator") is None:
        folders.append(Path(sys.argv[0]).absolute().parent)
    if shutil.which("kubectl") is None:
        folders.append(cluster.kubectl_program.parent)
    line = f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}"
    if folders:
        line += f" PATH={':'.join(shlex.quote(str(folder)) for folder in folders)}:$PATH"
    return line


def _gpus(cluster: LocalCluster, node: str) -> list[GPU]:
    path = f"/apis/{GROUP}/{VERSION}/{INVENTORY_PLURAL}/{node}"
    return Inventory.from_object(cluster.client.get(path)).status.gpus or []


def _swap(cluster: LocalCluster, node: str, gpus: list[GPU]) -> list[tuple[str, list[str]]]:
    """Commands that replace the board of the first GPU, then look for it."""
    serial = gpus[0].serial
    # The GPUs of one board share its serial: they are replaced together.
    board = [gpu for gpu in gpus if gpu.serial == serial] if serial else gpus[:1]
    edits = [
        f"s/{gpu.uuid}/GPU-{uuid.uuid5(uuid.NAMESPACE_OID, gpu.uuid)}/" for gpu in board if gpu.uuid
    ]
    if serial:
        edits.append(f"s/<serial>{serial}</<serial>{_other(serial)}</")
    file = shlex.quote(str(cluster.smi_file(node)))
    restart = f"gpuid-operator cluster restart-plugin {node} --dir"
    sections = [
        (
            f"Swap the hardware behind {node}, then restart the plugin, as after a real swap:",
            [
                f"sed -i {' '.join(f'-e {shlex.quote(edit)}' for edit in edits)} {file}",
                f"{restart} {shlex.quote(str(cluster.directory))}",
            ],
        ),
        (
            "A moment later the history shows the removed and the added GPUs:",
            [f"kubectl get gpuinv {node} {_HISTORY}"],
        ),
    ]
    if serial:
        label = f"serial.{GROUP}/{serial}"
        sections.append(
            (
                f"Find the present and past nodes of {serial} by label, or with the plugin:",
                [
                    f"kubectl get gpuinv -l {label} -L {label}",
                    f"kubectl gpuid where {serial}",
                ],
            )
        )
    return sections


def _other(serial: str) -> str:
    """Another serial in the same format."""
    return f"{serial[:-1]}{(int(serial[-1]) + 1) % 10 if serial[-1].isdigit() else 0}"
