"""Which GPUs that a read does not list are gone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import GPU
from gpuid_operator.api.meta import MAX_GPUS
from gpuid_operator.plan.identity import Match, key
from gpuid_operator.plan.smi import Reading
from gpuid_operator.plan.status_change import PendingRemovals

CONFIRMATION: Final = timedelta(seconds=10)
"""Time between the first read that does not list a GPU and the read that may confirm its
removal."""


def split_missing(
    found: Match,
    *,
    certain: bool,
    reading: Reading,
    pending_removals: PendingRemovals | None,
    now: datetime,
) -> tuple[list[GPU], list[GPU]]:
    """Split the missing GPUs into those that are gone and those that await a second read.

    another machine, Node or boot           | gone
    another GPU at its PCI address          | gone
    also missing in a read 10 s ago         | gone
    more than MAX_GPUS GPUs with it         | gone
    otherwise                               | awaits a second read
    """
    occupied = {gpu.pci_address for gpu in reading.gpus if gpu.pci_address}
    room = MAX_GPUS - len(reading.gpus)
    confirmed = (
        pending_removals.keys
        if pending_removals and now - pending_removals.since >= CONFIRMATION
        else frozenset()
    )
    absent: list[GPU] = []
    unconfirmed: list[GPU] = []
    for gpu in found.missing:
        gone = (
            certain
            or gpu.pci_address in occupied
            or key(gpu) in confirmed
            or len(unconfirmed) >= room
        )
        (absent if gone else unconfirmed).append(gpu)
    return absent, unconfirmed
