"""The objects of the simulated GPUs in a cluster of the user: those of deployment/simulated in a
namespace of the demo, with another image."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

import yaml

NAMESPACE: Final = "gpuid-demo"
NAME: Final = "simulated-device-plugin"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
DEMO: Final = "gpuid-operator-demo"
CRDS_CREATED: Final = "gpuid.github.com/demo-created-crds"
"""Annotation of the namespace: whether the demo installed the CRDs, and removes them."""
IMAGE: Final = "python:3.13-alpine"
"""The program of the simulated GPUs needs nothing but Python. The operator's own image has it, too,
but is in no registry that every cluster reaches."""
POD_LABELS: Final = "app.kubernetes.io/name=simulated-device-plugin"
GPUS: Final = 8


def namespace(*, crds_created: bool) -> dict[str, Any]:
    """The namespace of the demo, which is its mark in the cluster."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {MANAGED_BY: DEMO},
            "annotations": {CRDS_CREATED: str(crds_created).lower()},
        },
    }


def config_map() -> dict[str, Any]:
    """The program of the simulated GPUs."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {"simulated_gpus.py": _file("simulated_gpus.py.txt")},
    }


def daemon_set(image: str) -> dict[str, Any]:
    """The pods that look like those of the device plugin."""
    body: dict[str, Any] = yaml.safe_load(_file("daemonset.yaml"))
    body["metadata"]["namespace"] = NAMESPACE
    (container,) = body["spec"]["template"]["spec"]["containers"]
    container["image"] = image
    return body


def node_terms() -> list[dict[str, Any]]:
    """The expressions about its labels that a node of the DaemonSet meets."""
    affinity = daemon_set(IMAGE)["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    expressions: list[dict[str, Any]] = term["matchExpressions"]
    return expressions


def _file(name: str) -> str:
    """A copy of a file in deployment/simulated, which `make chart` makes."""
    folder = files("gpuid_operator.cli.demo") / "simulated"
    return (folder / name).read_text(encoding="utf-8")
