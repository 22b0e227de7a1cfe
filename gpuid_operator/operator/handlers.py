"""The handlers of the operator, as Kopf calls them: for pods, policies and quarantines, and to log
in.

They run in Kopf's thread (see kopf_thread.py) and only hand events over to the loop of the engine,
which does the work. No handler writes to the cluster: Kopf leaves nothing on any object.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from gpuid_operator.api.meta import GROUP, POLICY_PLURAL, QUARANTINE_PLURAL, VERSION
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.credentials import Credentials
from gpuid_operator.kube.pods import trimmed_pod
from gpuid_operator.operator.kopf_private import kopf

CREDENTIALS_AGE: Final = timedelta(minutes=10)
"""After this Kopf logs in again. A bound service account token is valid for an hour, and Kopf keeps
the token that it was given."""


class EventReceiver(Protocol):
    """Takes the events: an engine, or a check runner."""

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None: ...
    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None: ...


class QuarantineReceiver(Protocol):
    """Takes the events of quarantines: an engine."""

    def quarantine_event(self, body: dict[str, Any], *, deleted: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Memo:
    """What every handler gets as its `memo`. One Kopf operator watches the pods of one `source`."""

    source: PodSelector | None
    """None where no pods are watched."""
    receiver: EventReceiver
    loop: asyncio.AbstractEventLoop
    """The loop of the receiver."""
    credentials: Callable[[], Credentials]
    """Returns the current credentials, from any thread."""
    quarantines: QuarantineReceiver | None = None
    """None where quarantines are not watched."""

    def enqueue_pod(self, body: dict[str, Any], *, deleted: bool) -> None:
        if self.source is not None:
            take = functools.partial(self.receiver.pod_event, self.source, body, deleted=deleted)
            self.loop.call_soon_threadsafe(take)

    def enqueue_policy(self, body: dict[str, Any], *, deleted: bool) -> None:
        take = functools.partial(self.receiver.policy_event, body, deleted=deleted)
        self.loop.call_soon_threadsafe(take)

    def enqueue_quarantine(self, body: dict[str, Any], *, deleted: bool) -> None:
        if self.quarantines is not None:
            take = functools.partial(self.quarantines.quarantine_event, body, deleted=deleted)
            self.loop.call_soon_threadsafe(take)


async def pod_event(event: Any, memo: Memo, **_: Any) -> None:
    """A pod was listed, added, modified or deleted."""
    memo.enqueue_pod(trimmed_pod(event["object"]), deleted=event["type"] == "DELETED")


async def policy_event(event: Any, memo: Memo, **_: Any) -> None:
    """A GPUInventoryPolicy was listed, added, modified or deleted."""
    memo.enqueue_policy(event["object"], deleted=event["type"] == "DELETED")


async def quarantine_event(event: Any, memo: Memo, **_: Any) -> None:
    """A GPUQuarantine was listed, added, modified or deleted."""
    memo.enqueue_quarantine(event["object"], deleted=event["type"] == "DELETED")


async def login(memo: Memo, **_: Any) -> kopf.ConnectionInfo:
    """Kopf needs credentials: at its start, and again when these expire."""
    return connection_info(memo.credentials())


def registry(
    *, policies: bool, quarantines: bool = False, pods: bool = True
) -> kopf.OperatorRegistry:
    """The handlers of one Kopf operator. Policies and quarantines are cluster-scoped: one of
    several operators watches them. `quarantines` must be false where the API server does not serve
    them."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(login)
    if pods:
        kopf.on.event("v1", "pods", registry=handlers)(pod_event)
    if policies:
        kopf.on.event(GROUP, VERSION, POLICY_PLURAL, registry=handlers)(policy_event)
    if quarantines:
        kopf.on.event(GROUP, VERSION, QUARANTINE_PLURAL, registry=handlers)(quarantine_event)
    return handlers


def connection_info(credentials: Credentials) -> kopf.ConnectionInfo:
    """The credentials of the operator's own client, in the form that Kopf takes."""
    scheme, _, token = (credentials.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_path,
        insecure=credentials.insecure,
        scheme=scheme or None,
        token=token or None,
        certificate_path=credentials.certificate_path,
        private_key_path=credentials.private_key_path,
        proxy_url=credentials.proxy,
        expiration=datetime.now(UTC) + CREDENTIALS_AGE,
    )
