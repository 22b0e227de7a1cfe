"""`kubectl gpuid quarantine`: writes a GPUQuarantine, or prints the file for git."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import click
import yaml

from gpuid_operator.api.inventory import Inventory
from gpuid_operator.api.meta import (
    API_VERSION,
    CHASSIS_LABEL,
    GROUP,
    QUARANTINE_KIND,
    QUARANTINE_PLURAL,
    SERIAL_LABEL,
)
from gpuid_operator.api.quarantine import UNKNOWN_SERIALS, Part, QuarantineAction
from gpuid_operator.cli.plugin_clusters import Cluster, Clusters, say
from gpuid_operator.kube.errors import Conflict, Forbidden, KubeError, NotFound
from gpuid_operator.kube.quarantines import create_quarantine, list_quarantines
from gpuid_operator.plan.labels import label_text
from gpuid_operator.plan.placement import canonical
from gpuid_operator.plan.placements import placements

RESOURCE: Final = f"{QUARANTINE_PLURAL}.{GROUP}"

_NOT_IN_A_NAME: Final = re.compile(r"[^a-z0-9.]+")
_MAX_NAME: Final = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asks for."""

    identifier: str
    reason: str
    ticket: str | None = None
    taint: bool = False
    chassis: bool = False
    """Whether the identifier is the serial of a chassis."""
    name: str | None = None

    @property
    def part(self) -> Part:
        """The part. Raises click.BadParameter for what cannot be one."""
        text = canonical(self.identifier)
        if text.lower() in UNKNOWN_SERIALS or not text.strip("0 "):
            raise click.BadParameter(
                f"{self.identifier!r} stands for an unknown serial; use the UUID of the GPU",
                param_hint="SERIAL|UUID",
            )
        if self.chassis:
            return Part(chassis=text)
        return Part(uuid=text) if text.startswith("GPU-") else Part(serial=text)

    @property
    def manifest(self) -> dict[str, Any]:
        """The object, as a user would write it."""
        part = self.part
        spec: dict[str, Any] = {"parts": [part.to_json()], "reason": self.reason}
        if self.ticket:
            spec["ticket"] = self.ticket
        if self.taint:
            spec["action"] = QuarantineAction.TAINT.value
        return {
            "apiVersion": API_VERSION,
            "kind": QUARANTINE_KIND,
            "metadata": {"name": self.name or _default_name(part)},
            "spec": spec,
        }


def _default_name(part: Part) -> str:
    """The identifier as the name of an object: `serial-1652823054567`, or the UUID."""
    kind, text = next((kind, text) for kind, text in part.to_json().items() if text)
    text = text if kind == "uuid" else f"{kind}-{text}"
    return _NOT_IN_A_NAME.sub("-", text.lower())[:_MAX_NAME].strip("-.")


def print_manifest(request: Request) -> None:
    """Print the object as YAML."""
    click.echo(yaml.safe_dump(request.manifest, sort_keys=False, allow_unicode=True), nl=False)


async def quarantine(clusters: Clusters, request: Request) -> bool:
    """Create the quarantine in each cluster; return whether all have it now."""
    manifest = request.manifest
    name = manifest["metadata"]["name"]
    identifier = canonical(request.identifier)

    async def create(cluster: Cluster) -> str | None:
        found = await cluster.named_by_labels(identifier)
        if not request.chassis and _is_chassis(found, identifier):
            return f"{identifier} is the serial of a chassis; add --chassis to quarantine its GPUs"
        try:
            await create_quarantine(cluster.client, manifest)
        except (Conflict, Forbidden, NotFound) as error:
            return _explain(error, name)
        click.echo(f"{RESOURCE}/{name} created" + _of(cluster, clusters))
        nodes = [inventory.name for inventory in found if _is_there(inventory, identifier)]
        if nodes:
            say(f"the part is now on {', '.join(nodes)}" + _of(cluster, clusters))
        else:
            say(
                f"no node of context {cluster.name} has the part now; the operator flags it as soon"
                " as it turns up"
            )
        return None

    answers = await clusters.ask(create)
    clusters.problems += [f"context {cluster.name}: {text}" for cluster, text in answers if text]
    return len(answers) > 0 and not clusters.problems


def _is_chassis(found: list[Inventory], identifier: str) -> bool:
    """Whether look-up labels know the identifier, and only as the serial of a chassis."""
    labels = {label for inventory in found for label in inventory.labels}
    text = label_text(identifier)
    return f"{CHASSIS_LABEL}/{text}" in labels and f"{SERIAL_LABEL}/{text}" not in labels


def _is_there(inventory: Inventory, identifier: str) -> bool:
    return any(
        placement.present and placement.is_of(identifier)
        for placement in placements(inventory.name, inventory.status)
    )


def _of(cluster: Cluster, clusters: Clusters) -> str:
    return f" (context {cluster.name})" if clusters.several else ""


def _explain(error: KubeError, name: str) -> str:
    match error:
        case Conflict():
            return (
                f"{RESOURCE} {name} exists already; add the part to it with `kubectl edit gpuq"
                f" {name}`, or choose another name with --name"
            )
        case Forbidden() if "cannot create resource" in error.server_message:
            return (
                f"permission denied: {error.server_message}; grant the verb create on {RESOURCE},"
                " or print the file for git with -o yaml"
            )
        case NotFound():
            return (
                f"the cluster does not serve {RESOURCE}; install the CRDs of this version of"
                " gpuid-operator"
            )
    return error.message


async def notes(cluster: Cluster, identifiers: set[str]) -> list[str]:
    """One line for each quarantine of a cluster that lists one of these serials and UUIDs."""
    try:
        quarantines = await list_quarantines(cluster.client)
    except NotFound:
        return []  # an older version of the operator
    except Forbidden:
        return [f"note: no permission to list {RESOURCE} in context {cluster.name}"]
    return [
        _note(cluster, item)
        for item in quarantines
        if any(identifiers & set(part.values()) for part in item["spec"].get("parts") or ())
    ]


def _note(cluster: Cluster, body: dict[str, Any]) -> str:
    spec = body["spec"]
    ticket = f" ({spec['ticket']})" if spec.get("ticket") else ""
    until = f", until {spec['until']}" if spec.get("until") else ""
    name = body["metadata"]["name"]
    return f"quarantine {name} of context {cluster.name}: {spec.get('reason')}{ticket}{until}"
