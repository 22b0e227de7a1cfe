"""The order of resourceVersions."""

from __future__ import annotations


def newer(version: str, *, than: str) -> bool:
    """Whether a resourceVersion is later than another one of the same kind.

    Both are decimal numbers that only rise; the Kubernetes API guarantees this since 1.35, and etcd
    always did. Where they are not numbers, every version that is not equal counts as later.
    """
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than
