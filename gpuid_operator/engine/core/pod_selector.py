"""Which pods the operator watches. Targets and checks with equal selectors share one watch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class PodSelector:
    """The pods of one namespace that a label selector matches."""

    namespace: str
    selector: str
    """Label selector in the syntax of the API server's `labelSelector` parameter."""
