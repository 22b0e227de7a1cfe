"""Why a measurement ended without a figure."""

from __future__ import annotations


class BenchError(Exception):
    """The message says which program or cluster did not do what, and where its log is."""
