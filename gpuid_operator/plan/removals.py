"""Which GPUs that a read does not list are gone.

A container with a resource claim (DRA) sees the devices of its claim only. A GPU in MIG mode is no
device of its own, so no claim includes it: its MIG devices in the ResourceSlices show that it is
there.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from gpuid_operator.api.inventory import GPU
from gpuid_operator.api.meta import MAX_GPUS
from gpuid_operator.plan.identity import Match, key
from gpuid_operator.plan.resource_slices import PublishedGPUs
from gpuid_operator.plan.smi import Reading
from gpuid_operator.plan.status_change import PendingRemovals

CONFIRMATION: Final = timedelta(seconds=10)
"""Time between the first read that does not list a GPU and the read that may confirm its
removal."""


class MissingGPUs(NamedTuple):
    """The GPUs that a read does not list, as last known."""

    gone: tuple[GPU, ...]
    unconfirmed: tuple[GPU, ...]
    """Those that await a second read."""
    unclaimed: tuple[GPU, ...]
    """Those that are there, but that the claim of the container does not include."""


def split_missing(
    found: Match,
    *,
    published: PublishedGPUs | None = None,
    moved: bool = False,
    certain: bool,
    reading: Reading,
    pending_removals: PendingRemovals | None,
    now: datetime,
) -> MissingGPUs:
    """Split the missing GPUs. The rows are tried from top to bottom:

    another machine or Node (`moved`)       | gone
    another GPU at its PCI address          | gone
    more than MAX_GPUS GPUs with it         | gone
    in `published`                          | unclaimed
    another boot (`certain`)                | gone
    also missing in a read 10 s ago         | gone
    otherwise                               | awaits a second read

    `published` is what the ResourceSlices publish, if the read was taken through a resource claim.
    """
    occupied = {gpu.pci_address for gpu in reading.gpus if gpu.pci_address}
    room = MAX_GPUS - len(reading.gpus)
    confirmed = (
        pending_removals.keys
        if pending_removals and now - pending_removals.since >= CONFIRMATION
        else frozenset()
    )
    there = published.uuids if published is not None else ()
    gone: list[GPU] = []
    unconfirmed: list[GPU] = []
    unclaimed: list[GPU] = []
    for gpu in found.missing:
        full = len(unconfirmed) + len(unclaimed) >= room
        if moved or gpu.pci_address in occupied or full:
            gone.append(gpu)
        elif gpu.uuid in there:
            unclaimed.append(gpu)
        elif certain or key(gpu) in confirmed:
            gone.append(gpu)
        else:
            unconfirmed.append(gpu)
    return MissingGPUs(tuple(gone), tuple(unconfirmed), tuple(unclaimed))
