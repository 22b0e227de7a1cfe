"""Lists the pods that checks run in."""

from __future__ import annotations

from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.pods import list_pods


async def list_check_pods(client: KubeClient, pods: CheckPods, source: PodSelector) -> None:
    """Take over the pods of a source as they are now; what vanished is forgotten."""
    unseen = pods.uids(source)
    async for body in list_pods(client, namespace=source.namespace, selector=source.selector):
        unseen.discard(body["metadata"]["uid"])
        pods.put(source, body, deleted=False)
    for uid in unseen:
        pods.remove(source, uid)
