"""The record of a change, as it is delivered to sinks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from gpuid_operator.api.values import Model, Time


class Record(Model):
    """One record; the seven fields from `cluster` to `time` are those of gpuid's records.

    It is built from its history entry, the object's name and uid and the cluster's name alone, so
    that it reads the same whenever it is sent.
    """

    id: str
    """Inventory uid, sequence and unix seconds of the entry, joined by dots; `.n` for sightings."""
    event: str
    """Type of the history entry."""
    cluster: str
    """CLUSTER_NAME."""
    node: str
    """Name of the node."""
    machine: str
    """The virtual machine, `na` when unknown."""
    source: str
    """namespace/pod that the fact was read from; empty when none."""
    chassis: str
    """Chassis serial, `unknown` when there is none."""
    gpu: str
    """GPU serial, `na` when there is none."""
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
        """The record as JSON values; unlike in the API, what is unknown is null: a fixed shape."""
        return self.model_dump(mode="json", by_alias=True)
