"""Pods that commands run in: which container of a pod is the target, and what state it is in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import NotFound

_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
_OVER: Final = frozenset({"Succeeded", "Failed"})
_PAGE: Final = 250


@dataclass(frozen=True, slots=True)
class TargetPod:
    """A pod on a node, and the container in it that commands are for."""

    namespace: str
    name: str
    uid: str
    node: str
    container: str
    container_id: str
    """Of the running container, with the runtime's prefix; empty while none runs."""
    ready: bool
    """The container runs, is ready, and has an id: commands can be executed."""
    started_at: datetime | None = None
    """When the container started."""
    controlled: bool = False
    """A controller owns the pod, and would start another in its place."""

    @classmethod
    def from_pod(cls, pod: Mapping[str, Any], *, container: str | None) -> TargetPod | None:
        """Read an API object; None for a pod without a node, one that is over, or being deleted.

        `container`: the configured name. Where the pod has none of that name: the one that its
        annotation kubectl.kubernetes.io/default-container names, else its first.
        """
        meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
        node = spec.get("nodeName")
        if not node or meta.get("deletionTimestamp") or status.get("phase") in _OVER:
            return None
        names: list[str] = [entry["name"] for entry in spec.get("containers") or ()]
        if not names:
            return None
        asked = (container, (meta.get("annotations") or {}).get(_DEFAULT_CONTAINER))
        target = next((name for name in asked if name in names), names[0])
        running: dict[str, Any] = {}
        container_id, ready = "", False
        for seen in status.get("containerStatuses") or ():
            if seen.get("name") == target:
                running = (seen.get("state") or {}).get("running") or {}
                if running:
                    container_id = seen.get("containerID") or ""
                    ready = bool(seen.get("ready")) and bool(container_id)
                break
        started = running.get("startedAt")
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            node=node,
            container=target,
            container_id=container_id,
            ready=ready,
            started_at=datetime.fromisoformat(started) if started else None,
            controlled=any(owner.get("controller") for owner in meta.get("ownerReferences") or ()),
        )


async def list_pods(
    client: KubeClient, *, namespace: str, selector: str
) -> AsyncIterator[dict[str, Any]]:
    """All pods of a namespace that a label selector (`a=b,c in (d,e)`) matches, as API objects.

    Raises ListExpired, ApiError, ApiUnreachable.
    """
    params = {"labelSelector": selector} if selector else {}
    path = f"/api/v1/namespaces/{namespace}/pods"
    async for page in client.pages(path, params=params, limit=_PAGE):
        for pod in page["items"]:
            yield pod


async def delete_pod(client: KubeClient, *, namespace: str, name: str, uid: str) -> bool:
    """Delete this very pod. False when it is gone already.

    Raises Conflict when another pod has that name by now, and ApiError, ApiUnreachable.
    """
    try:
        await client.request(
            "DELETE",
            f"/api/v1/namespaces/{namespace}/pods/{name}",
            body={
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "preconditions": {"uid": uid},
            },
        )
    except NotFound:
        return False
    return True
