"""Kopf's settings: it only watches, and writes nothing anywhere."""

from __future__ import annotations

from typing import Any

from gpuid_operator.api.meta import GROUP
from gpuid_operator.operator.kopf_private import kopf


def kopf_settings(selector: str | None) -> kopf.OperatorSettings:
    """Settings for a watch of the pods that `selector` selects; None for a watch without pods."""
    settings = kopf.OperatorSettings()
    if selector is not None:
        settings.watching.label_selectors["v1", "pods"] = selector
    settings.watching.chunk_size = 50
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    # After these the watch restarts, and the operator is not ready meanwhile. Kopf's own minute of
    # retries would hide an outage.
    settings.networking.error_backoffs = (1, 1, 2, 3, 5)
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # Kopf has a task for each object that keeps its last event, until it was idle for so long.
    settings.queueing.idle_timeout = 0.1
    settings.persistence.finalizer = f"{GROUP}/none"
    settings.persistence.diffbase_storage = _NoDiffs()
    return settings


class _NoDiffs(kopf.DiffBaseStorage):
    """Kopf copies the whole object of each event to compute its changes. No handler uses them."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("Kopf must not store anything on an object")
