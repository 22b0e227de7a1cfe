"""Which pods are watched: each pair of namespace and selector once, whoever asks for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class PodSelector:
    """Pods of one namespace that one label selector matches."""

    namespace: str
    selector: str
