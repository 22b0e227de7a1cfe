"""Writes the status of an object by server-side apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuid_operator.api.meta import API_VERSION
from gpuid_operator.kube.client import APPLY_PATCH, ONLY_METADATA, KubeClient, item


async def apply_whole_status(
    client: KubeClient,
    collection: str,
    *,
    kind: str,
    name: str,
    resource_version: str,
    status: Mapping[str, Any],
    manager: str,
    uid: str | None = None,
    force: bool = True,
    validation: str | None = None,
) -> str:
    """Apply the whole status that `manager` owns; return the new resourceVersion (the old one if
    nothing changed). `validation` is the fieldValidation of the request.

    Raises Conflict if the object changed since `resource_version`, or if another manager owns a
    field and `force` is false; NotFound; and what `KubeClient.request` raises. An apply does not
    compare `uid`: only the resourceVersion detects a new object with the same name.
    """
    params = {"fieldManager": manager, "force": "true" if force else "false"}
    if validation is not None:
        params["fieldValidation"] = validation
    meta = {"name": name, "resourceVersion": resource_version}
    if uid is not None:
        meta["uid"] = uid
    answer = await client.request(
        "PATCH",
        f"{item(collection, name)}/status",
        params=params,
        body={"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "status": status},
        content_type=APPLY_PATCH,
        accept=ONLY_METADATA,
    )
    version: str = answer["metadata"]["resourceVersion"]
    return version
