"""A real API server does what the fake of the unit tests does, so the fake tells the truth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from gpuid_operator.kube.client import KubeClient, item
from gpuid_operator.kube.inventories import list_inventories
from gpuid_operator.localcluster import LocalCluster
from tests.support.kube_cases import INVENTORIES, Case
from tests.support.kube_list_cases import CASES


@pytest.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[KubeClient]:
    async with await KubeClient.connect(
        qps=1000, burst=1000, kubeconfig=cluster.kubeconfig
    ) as client:
        yield client


@pytest.fixture
async def prefix(client: KubeClient) -> AsyncIterator[str]:
    """A prefix that no name has; the inventories under it are gone afterwards."""
    prefix = f"case-{uuid4().hex[:8]}"
    yield prefix
    names = [body["metadata"]["name"] async for body in list_inventories(client)]
    for name in names:
        if name.startswith(prefix):
            await client.request("DELETE", item(INVENTORIES, name))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_a_real_api_server_does_as_the_fake(
    case: Case, client: KubeClient, prefix: str
) -> None:
    await case(client, prefix)
