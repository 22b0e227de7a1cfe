"""How much of the campaign runs, and the figures that it prints."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

WHOLE = os.environ.get("FAULTS") == "all"
"""Whether the whole campaign runs (`make test-faults`), or only the part that `make test` runs."""
LIMIT = 3600 if WHOLE else 600
"""Seconds after which a long test of the campaign counts as stuck."""
SEED = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
"""Seed of whatever a campaign draws at random; the table prints it, FAULTS_SEED sets it."""
os.environ["FAULTS_SEED"] = str(SEED)  # the same in every worker of pytest-xdist


@dataclass
class Figures:
    """One row of the table."""

    campaign: str
    injected: int = 0
    """Faults injected."""
    survived: int = 0
    """Faults after which everything was as in a run without faults."""
    expected: int = 0
    """History entries that a run without faults has, times the sinks that receive them."""
    delivered: int = 0
    """Those entries that the sinks hold."""
    doubled: int = 0
    """Entries that a sink holds under two ids."""
    seconds: float = 0.0
    """How long its test took, with the clusters that it started."""


def table(rows: list[Figures], *, seconds: float) -> str:
    """The figures of all campaigns, one line each. `seconds` is the time of all tests together."""
    head = ("CAMPAIGN", "INJECTED", "SURVIVED", "EXPECTED", "DELIVERED", "DOUBLED", "SECONDS")
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        counts = (row.injected, row.survived, row.expected, row.delivered, row.doubled)
        lines.append((row.campaign, *map(str, counts), f"{row.seconds:.0f}"))
    lines.append(("all tests", *[""] * 5, f"{seconds:.0f}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
