"""`kubectl gpuid where`: the present and past placements of a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gpuid_operator.api.inventory import ConditionStatus, ConditionType, Inventory
from gpuid_operator.api.values import format_time
from gpuid_operator.cli.plugin_clusters import Cluster, Clusters, say
from gpuid_operator.cli.plugin_quarantine import notes
from gpuid_operator.cli.plugin_table import CLUSTER, Column, show
from gpuid_operator.plan.conditions import find
from gpuid_operator.plan.placement import Placement, canonical, newest_first
from gpuid_operator.plan.placements import placements

_UNKNOWN: Final = "unknown"
"""A time that the bounded history no longer contains."""

_COLUMNS: Final = (
    Column("serial", "SERIAL"),
    Column("uuid", "UUID"),
    CLUSTER,
    Column("node", "NODE"),
    Column("machine", "MACHINE"),
    Column("pciAddress", "PCI"),
    Column("since", "FROM", absent=_UNKNOWN),
    Column("until", "TO", absent=_UNKNOWN),
    Column("state", "STATE", condition=True),
    Column("quarantines", "QUARANTINES", sparse=True),
    Column("product", "PRODUCT", wide=True),
    Column("chassis", "CHASSIS", wide=True),
    Column("lastReadTime", "LAST READ", wide=True, age=True),
    Column("ready", "READY", wide=True, condition=True),
    Column("alsoOn", "ALSO ON", wide=True),
)


@dataclass(frozen=True, slots=True)
class _Found:
    """A placement, with the cluster and the inventory in which it was found."""

    cluster: str
    inventory: Inventory
    placement: Placement

    def place(self, *, several: bool) -> str:
        """The node, with its cluster where there are several."""
        return f"{self.cluster}/{self.placement.node}" if several else self.placement.node


async def where(clusters: Clusters, identifier: str, *, scan: bool, output: str) -> bool:
    """Print the placements of the GPU; return whether there are any."""
    identifier = canonical(identifier)
    found: list[_Found] = []
    if not scan:
        found = await _look_up(clusters, identifier)
    if not found and clusters.reached:
        if not scan:
            say(f"no label of {clusters.names} contains {identifier}; searching every history")
        found = await _scan(clusters, identifier)
    if not found:
        if clusters.reached:
            say(
                f"{identifier} not found: no node of {clusters.names} has or had a GPU or chassis"
                " with this serial or UUID"
            )
            await _note_quarantines(clusters, {identifier})
        return False
    claims = _claims(found)
    rows = _rows(found, claims, several=clusters.several)
    if output in ("table", "wide"):
        rows = [row | {"until": "now"} if row["present"] else row for row in rows]
    show(rows, _COLUMNS, output=output, several=clusters.several)
    for line in _warnings(found, claims, several=clusters.several):
        say(line)
    names = {name for one in found for name in one.placement.names}
    await _note_quarantines(clusters, {identifier, *names})
    return True


async def rows_of(clusters: Clusters, identifier: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The placements of the GPUs that look-up labels have under an identifier, and warnings."""
    found = await _look_up(clusters, canonical(identifier))
    claims = _claims(found)
    rows = _rows(found, claims, several=clusters.several)
    return rows, _warnings(found, claims, several=clusters.several)


def node_rows(cluster: Cluster, inventory: Inventory) -> list[dict[str, Any]]:
    """The placements on one node."""
    found = [
        _Found(cluster.name, inventory, placement)
        for placement in placements(inventory.name, inventory.status)
    ]
    return _rows(found, {}, several=False)


def _rows(
    found: Sequence[_Found], claims: Mapping[int, Sequence[_Found]], *, several: bool
) -> list[dict[str, Any]]:
    """One row per placement: by GPU, from the current placement to the oldest."""
    order = {id(one.placement): one for one in found}
    return [
        _row(one, [other.place(several=several) for other in claims.get(id(one), ())])
        for one in (
            order[id(placement)] for placement in newest_first([one.placement for one in found])
        )
    ]


def _warnings(
    found: Sequence[_Found], claims: Mapping[int, Sequence[_Found]], *, several: bool
) -> list[str]:
    lines = [_warning(one) for one in found]
    lines += [_contested([one, *claims[id(one)]], several=several) for one in found]
    return list(dict.fromkeys(filter(None, lines)))


def _claims(found: Sequence[_Found]) -> dict[int, list[_Found]]:
    """For each placement, by its identity, the present placements of the same GPU elsewhere."""
    present: dict[str, list[_Found]] = {}
    for one in found:
        if one.placement.present and one.placement.uuid:
            present.setdefault(one.placement.uuid, []).append(one)
    return {
        id(one): [
            other
            for other in present.get(one.placement.uuid or "", ())
            if one.placement.present and other is not one
        ]
        for one in found
    }


async def _note_quarantines(clusters: Clusters, identifiers: set[str]) -> None:
    """Print the quarantines that list the part, also where it is not present now."""
    for _, lines in await clusters.ask(lambda cluster: notes(cluster, identifiers)):
        for line in lines:
            say(line)


async def _look_up(clusters: Clusters, identifier: str) -> list[_Found]:
    answers = await clusters.ask(lambda cluster: cluster.named_by_labels(identifier))
    return [
        one
        for cluster, inventories in answers
        for inventory in inventories
        for one in _placements(cluster, inventory, identifier)
    ]


async def _scan(clusters: Clusters, identifier: str) -> list[_Found]:
    async def search(cluster: Cluster) -> list[_Found]:
        return [
            one
            async for inventory in cluster.inventories(with_history=True)
            for one in _placements(cluster, inventory, identifier)
        ]

    return [one for _, found in await clusters.ask(search) for one in found]


def _placements(cluster: Cluster, inventory: Inventory, identifier: str) -> Iterable[_Found]:
    for placement in placements(inventory.name, inventory.status):
        if placement.is_of(identifier):
            yield _Found(cluster.name, inventory, placement)


def _warning(found: _Found) -> str | None:
    """A warning for a present placement on a node that is not Ready."""
    status = found.inventory.status
    ready = find(status.conditions, ConditionType.READY)
    if not found.placement.present or ready is None or ready.status is not ConditionStatus.FALSE:
        return None
    last = _time(status.last_read_time) or "an unknown time"
    return (
        f"warning: the last successful read of {found.inventory.name} was at {last};"
        f" not ready since then: {ready.reason}: {ready.message}"
    )


def _contested(claims: Sequence[_Found], *, several: bool) -> str | None:
    """A warning for a GPU that several inventories list."""
    if len(claims) < 2:
        return None
    uuid = claims[0].placement.uuid
    claims = sorted(claims, key=lambda one: one.place(several=several))
    places = [one.place(several=several) for one in claims]
    if len({one.cluster for one in claims}) == 1 and all(map(_is_duplicate, claims)):
        return f"warning: {uuid} is on {' and '.join(places)} at the same time, as nvidia-smi says"
    times = [_time(one.inventory.status.last_read_time) or "an unknown time" for one in claims]
    nodes = [f"{place} (read at {at})" for place, at in zip(places, times, strict=True)]
    return (
        f"warning: {uuid} is in the inventories of {' and '.join(nodes)};"
        " if it moved, the latest read is right"
    )


def _is_duplicate(found: _Found) -> bool:
    """Whether the operator is certain that the node shares GPUs with others."""
    said = find(found.inventory.status.conditions, ConditionType.UNIQUE)
    return said is not None and said.status is ConditionStatus.FALSE


def _row(found: _Found, also_on: Sequence[str]) -> dict[str, Any]:
    placement, status = found.placement, found.inventory.status
    ready = find(status.conditions, ConditionType.READY)
    return {
        "cluster": found.cluster,
        "node": placement.node,
        "machine": placement.machine,
        "present": placement.present,
        "state": (placement.state.value if placement.state else None)
        if placement.present
        else "Past",
        "uuid": placement.uuid,
        "serial": placement.serial,
        "quarantines": list(placement.quarantines),
        "formerSerials": list(placement.former_serials),
        "chassis": placement.chassis,
        "pciAddress": placement.pci_address,
        "product": placement.product,
        "since": _time(placement.since),
        "until": _time(placement.until),
        "lastReadTime": _time(status.last_read_time),
        "ready": ready.status.value if ready else None,
        "alsoOn": list(also_on),
    }


def _time(moment: datetime | None) -> str | None:
    return format_time(moment) if moment else None
