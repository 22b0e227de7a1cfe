"""The CRDs of the operator in a local cluster."""

from __future__ import annotations

from gpuid_operator.localcluster import LocalCluster

CRDS = (
    "gpuinventories.gpuid.github.com",
    "gpuinventorypolicies.gpuid.github.com",
    "gpuquarantines.gpuid.github.com",
)


def delete_crds(cluster: LocalCluster, *names: str) -> None:
    """Delete CRDs (default: all of the operator's) that may exist, and wait until they are gone.

    A kube-apiserver that was never asked for the objects of a kind sometimes fails to list them for
    the deletion ("storage is (re)initializing"), and then does not try again for minutes.
    """
    for name in names or CRDS:
        cluster.kubectl("get", name, check=False)
    cluster.kubectl("delete", "crd", *(names or CRDS), "--ignore-not-found", "--timeout=90s")
