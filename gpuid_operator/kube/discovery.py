"""Discovery: the kinds that the API server serves, and the identity of the cluster."""

from __future__ import annotations

from typing import Final

from gpuid_operator.api.meta import API_VERSION, INVENTORY_PLURAL, POLICY_PLURAL
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import NotFound

_WANTED: Final = frozenset({INVENTORY_PLURAL, POLICY_PLURAL})


async def missing_kinds(client: KubeClient) -> frozenset[str]:
    """The plurals of our CRDs that the API server does not serve yet.

    Raises what `KubeClient.request` raises.
    """
    try:
        body = await client.request("GET", f"/apis/{API_VERSION}")
    except NotFound:
        return _WANTED
    return _WANTED - {resource["name"] for resource in body.get("resources") or ()}


async def cluster_uid(client: KubeClient) -> str:
    """The uid of the namespace kube-system, which identifies the cluster.

    Raises what `KubeClient.request` raises.
    """
    body = await client.request("GET", "/api/v1/namespaces/kube-system")
    uid: str = body["metadata"]["uid"]
    return uid
