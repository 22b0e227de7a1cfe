"""Pods in which the operator runs commands: the target container and its state."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gpuid_operator.kube.client import ONLY_METADATA_LIST, KubeClient, item
from gpuid_operator.kube.errors import Forbidden, NotFound
from gpuid_operator.kube.paging import list_pages

_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
_OVER: Final = frozenset({"Succeeded", "Failed"})
_PAGE: Final = 50
"""Pods per page: half a megabyte of JSON."""
_METADATA_PAGE: Final = 100
"""The same without spec and status."""
_METADATA: Final = (
    "namespace",
    "name",
    "uid",
    "resourceVersion",
    "labels",
    "ownerReferences",
    "deletionTimestamp",
)
_CONTAINER_STATUS: Final = ("name", "ready", "containerID", "state")
_NO_IMAGE: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}
)
"""Reasons of a waiting container without an image. The first two alternate, so they count as one:
each change of a pod is a reconcile of its node."""


@dataclass(frozen=True, slots=True)
class TargetPod:
    """A pod on a node, and its container for commands."""

    namespace: str
    name: str
    uid: str
    node: str
    container: str
    container_id: str
    """ID of the running container, with the prefix of the runtime; empty if it does not run."""
    ready: bool
    """Whether commands can run: the container is running, is ready and has an ID."""
    started_at: datetime | None = None
    """When the container started."""
    controlled: bool = False
    """Whether a controller owns the pod and would recreate it."""
    claims: bool = False
    """Whether the container has resource claims (DRA), and may therefore see their devices only."""
    no_image: bool = False
    """Whether the container waits for an image that the kubelet failed to get."""

    @classmethod
    def from_pod(
        cls, pod: Mapping[str, Any], *, container: str | None, required: bool = False
    ) -> TargetPod | None:
        """Read an API object; None for a pod that has no node, has terminated or is being deleted.

        The target is the container with the name `container`, that of the annotation
        kubectl.kubernetes.io/default-container, or the first, in this order. With `required`, a pod
        without that container is None.
        """
        meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
        node = spec.get("nodeName")
        if not node or meta.get("deletionTimestamp") or status.get("phase") in _OVER:
            return None
        containers = spec.get("containers") or ()
        names: list[str] = [entry["name"] for entry in containers]
        if not names or (required and container not in names):
            return None
        asked = (container, (meta.get("annotations") or {}).get(_DEFAULT_CONTAINER))
        target = next((name for name in asked if name in names), names[0])
        running: dict[str, Any] = {}
        container_id, ready, no_image = "", False, False
        for seen in status.get("containerStatuses") or ():
            if seen.get("name") == target:
                state = seen.get("state") or {}
                running = state.get("running") or {}
                no_image = (state.get("waiting") or {}).get("reason") in _NO_IMAGE
                if running:
                    container_id = seen.get("containerID") or ""
                    ready = bool(seen.get("ready")) and bool(container_id)
                break
        started = running.get("startedAt")
        resources = containers[names.index(target)].get("resources") or {}
        return cls(
            # The pods of a fleet have few different ones.
            namespace=sys.intern(meta["namespace"]),
            name=meta["name"],
            uid=meta["uid"],
            node=node,
            container=sys.intern(target),
            container_id=container_id,
            ready=ready,
            started_at=datetime.fromisoformat(started) if started else None,
            controlled=any(owner.get("controller") for owner in meta.get("ownerReferences") or ()),
            claims=bool(resources.get("claims")),
            no_image=no_image,
        )


def trimmed_pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a pod that TargetPod and label selectors read, a small part of it: many events
    of pods may wait."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    wanted = (meta.get("annotations") or {}).get(_DEFAULT_CONTAINER)
    return {
        "metadata": {
            **{key: meta[key] for key in _METADATA if key in meta},
            "annotations": {_DEFAULT_CONTAINER: wanted},
        },
        "spec": {
            "nodeName": spec.get("nodeName"),
            "containers": [
                {key: one[key] for key in ("name", "resources") if key in one}
                for one in spec.get("containers") or ()
            ],
        },
        "status": {
            "phase": status.get("phase"),
            "containerStatuses": [
                {key: one[key] for key in _CONTAINER_STATUS if key in one}
                for one in status.get("containerStatuses") or ()
            ],
        },
    }


async def get_pod(client: KubeClient, *, namespace: str, name: str) -> dict[str, Any]:
    """A pod as API object. Raises NotFound, ApiError, ApiUnreachable."""
    pod: dict[str, Any] = await client.request(
        "GET", item(f"/api/v1/namespaces/{namespace}/pods", name)
    )
    return pod


async def list_pods(
    client: KubeClient,
    *,
    namespace: str,
    selector: str,
    since: str = "",
    only_metadata: bool = False,
) -> AsyncIterator[dict[str, Any]]:
    """All pods of a namespace that match a label selector (`a=b,c in (d,e)`), as API objects. A
    server may send whole pods in spite of `only_metadata`. See `list_pages` for `since`.

    Raises ListExpired, ApiError, ApiUnreachable.
    """
    params = {"labelSelector": selector} if selector else {}
    path = f"/api/v1/namespaces/{namespace}/pods"
    accept, limit = (ONLY_METADATA_LIST, _METADATA_PAGE) if only_metadata else (None, _PAGE)
    async for page in list_pages(
        client, path, params=params, accept=accept, limit=limit, since=since
    ):
        for pod in page["items"]:
            yield pod


async def may_list_pods(client: KubeClient, *, namespace: str) -> Forbidden | None:
    """The error if the credentials do not allow to list the pods of a namespace.

    Raises ApiError, ApiUnreachable.
    """
    path = f"/api/v1/namespaces/{namespace}/pods"
    try:
        await client.request("GET", path, params={"limit": "1"}, accept=ONLY_METADATA_LIST)
    except Forbidden as error:
        return error
    return None


async def delete_pod(client: KubeClient, *, namespace: str, name: str, uid: str) -> bool:
    """Delete the pod with this uid. False if it no longer exists.

    Raises Conflict if another pod has that name now, ApiError, ApiUnreachable.
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
