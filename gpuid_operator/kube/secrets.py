"""Reads Secrets."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from gpuid_operator.kube.client import KubeClient, item


@dataclass(frozen=True, slots=True)
class SecretData:
    """A Secret, whose repr omits the values."""

    labels: dict[str, str]
    annotations: dict[str, str]
    data: dict[str, bytes] = field(repr=False)


async def read_secret(client: KubeClient, *, namespace: str, name: str) -> SecretData:
    """A decoded Secret. Raises NotFound, Forbidden, and what `KubeClient.request` raises."""
    body = await client.request("GET", item(f"/api/v1/namespaces/{namespace}/secrets", name))
    meta = body["metadata"]
    return SecretData(
        labels=meta.get("labels") or {},
        annotations=meta.get("annotations") or {},
        data={key: base64.b64decode(value) for key, value in (body.get("data") or {}).items()},
    )
