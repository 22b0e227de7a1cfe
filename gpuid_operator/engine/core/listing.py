"""How the objects are fetched whose metadata shows in a list that they changed."""

from __future__ import annotations

from typing import Final

_FEW: Final = 50
_SHARE: Final = 0.2


def fetch_singly(changed: int, *, known: int) -> bool:
    """Whether to fetch each of the changed objects by a request of its own, and not to list all
    objects whole. A request costs both sides more than an object in a list; a fifth of the known
    objects, or 50, are fetched singly at most."""
    return changed <= max(_FEW, _SHARE * known)
