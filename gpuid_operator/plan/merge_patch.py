"""Merge patches of labels (RFC 7386, for a flat map)."""

from __future__ import annotations

from collections.abc import Mapping


def merge_patch(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """The labels after a merge patch with these changes; None removes a label."""
    merged = {**labels, **changes}
    return {key: value for key, value in merged.items() if value is not None}
