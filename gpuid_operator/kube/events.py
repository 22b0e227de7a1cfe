"""Kubernetes Events: best-effort notes for users of `kubectl describe`."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.values import format_time
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError

_log = logging.getLogger(__name__)

NAMESPACE: Final = "default"
"""The only namespace in which the API server accepts Events for cluster-scoped objects."""

_MAX_MESSAGE: Final = 1024
_MAX_NAME: Final = 253


class EventType(StrEnum):
    """Type of an Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Involved:
    """The cluster-scoped object that an Event is about."""

    api_version: str
    kind: str
    name: str
    uid: str


async def post_event(
    client: KubeClient,
    *,
    involved: Involved,
    reason: str,
    message: str,
    type: EventType = EventType.NORMAL,  # noqa: A002 - the API's own name
    now: datetime | None = None,
) -> None:
    """Post an Event (core/v1). A failure is logged, not raised."""
    at = format_time(now or datetime.now(UTC))
    suffix = f".{secrets.token_hex(8)}"
    try:
        await client.request(
            "POST",
            f"/api/v1/namespaces/{NAMESPACE}/events",
            body={
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": involved.name[: _MAX_NAME - len(suffix)].rstrip(".-") + suffix,
                    "namespace": NAMESPACE,
                },
                "involvedObject": {
                    "apiVersion": involved.api_version,
                    "kind": involved.kind,
                    "name": involved.name,
                    "uid": involved.uid,
                },
                "type": type.value,
                "reason": reason,
                "message": message[:_MAX_MESSAGE],
                "firstTimestamp": at,
                "lastTimestamp": at,
                "count": 1,
                "source": {"component": MANAGER},
                "reportingComponent": MANAGER,
                "reportingInstance": MANAGER,
            },
        )
    except KubeError as error:
        _log.warning("failed to post Event %s of %s: %s", reason, involved.name, error.message)
