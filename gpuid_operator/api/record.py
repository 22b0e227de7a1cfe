"""The record of a change or sighting, as sinks receive it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from gpuid_operator.api.values import Model, Time


class Record(Model):
    """A record; the seven fields from `cluster` to `time` are those of gpuid's records.

    It depends only on its history entry, the name and uid of the object and the name of the
    cluster, so that repeated deliveries send identical records.
    """

    id: str
    """Inventory uid, sequence and Unix seconds of the entry, joined by dots; `.n` for sightings."""
    event: str
    """Type of the history entry."""
    cluster: str
    """CLUSTER_NAME."""
    node: str
    """Name of the node."""
    machine: str
    """The virtual machine, `na` if unknown."""
    source: str
    """Pod that the operator read the fact from, as namespace/name; empty if none."""
    chassis: str
    """Chassis serial, `unknown` if there is none."""
    gpu: str
    """GPU serial, `na` if there is none."""
    time: Time
    """Time of the history entry."""
    uuid: str | None = None
    pci: str | None = None
    product: str | None = None
    driver: str | None = None
    sequence: int
    from_: Annotated[str | None, Field(alias="from")] = None
    to: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values. Unlike in the API, unknown values are null: the shape is
        fixed."""
        return self.model_dump(mode="json", by_alias=True)
