"""Lists the pods that checks run in."""

from __future__ import annotations

from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.pods import list_pods


async def list_check_pods(client: KubeClient, pods: CheckPods, source: PodSelector) -> None:
    """Store the current pods of a selector and forget those that are gone.

    Raises KubeError; the pods that were listed before the error are stored.
    """
    unseen = pods.versions(source)
    with pods.listing():
        async for body in list_pods(client, namespace=source.namespace, selector=source.selector):
            unseen.pop(body["metadata"]["uid"], None)
            pods.put(source, body, deleted=False)
        for uid, version in unseen.items():
            pods.remove_unlisted(source, uid, version)
