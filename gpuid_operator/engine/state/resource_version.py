"""The order of resourceVersions."""

from __future__ import annotations

from collections.abc import Iterable


def newer(version: str, *, than: str) -> bool:
    """Whether a resourceVersion is later than another one of the same kind.

    Both are decimal numbers that only rise; the Kubernetes API guarantees this since 1.35, and etcd
    always did. Where they are not numbers, every version that is not equal counts as later.
    """
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than


def newest(versions: Iterable[str]) -> str:
    """The latest of these resourceVersions; empty where none is a number."""
    return max((version for version in versions if version.isdigit()), key=int, default="")
