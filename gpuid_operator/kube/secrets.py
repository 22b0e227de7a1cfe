"""Reads Secrets."""

from __future__ import annotations

import base64

from gpuid_operator.api.secret import SecretData
from gpuid_operator.kube.client import KubeClient, item
from gpuid_operator.kube.errors import NotFound


async def find_secret(client: KubeClient, *, namespace: str, name: str) -> SecretData | None:
    """A decoded Secret; None if it does not exist. Raises Forbidden, and what
    `KubeClient.request` raises."""
    try:
        body = await client.request("GET", item(f"/api/v1/namespaces/{namespace}/secrets", name))
    except NotFound:
        return None
    meta = body["metadata"]
    return SecretData(
        labels=meta.get("labels") or {},
        annotations=meta.get("annotations") or {},
        data={key: base64.b64decode(value) for key, value in (body.get("data") or {}).items()},
    )
