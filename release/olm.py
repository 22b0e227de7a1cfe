"""The bundle for the Operator Lifecycle Manager (OLM), https://olm.operatorframework.io .

It has what install.yaml has, in the form that OLM wants: a ClusterServiceVersion with the
Deployment and its rights, the CRDs, and what OLM installs as it is. OLM creates the service account
and binds the rights; in which namespaces follows from the OperatorGroup.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from release.errors import ReleaseError
from release.oci import CONFIG, LAYER, Layout, diff_id, iso, tar_of
from release.project import Project

CHANNEL: Final = "candidate"
ANNOTATIONS: Final = "metadata/annotations.yaml"

_TARGET: Final = {
    "name": "NAMESPACE",
    "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['olm.targetNamespaces']"}},
}
"""OLM annotates pods with the namespace that their OperatorGroup selects."""
_MODES: Final = {
    "OwnNamespace": True,
    "SingleNamespace": True,
    "MultiNamespace": False,  # NAMESPACE is one namespace
    "AllNamespaces": False,  # would grant exec in every pod of the cluster
}
_DESCRIPTION: Final = """\
gpuid-operator reads the serial numbers of the GPUs of each node through pods of the GPU stack that
run there, and keeps them in one GPUInventory per node, with their history. It delivers each change
to the log, an HTTP endpoint, a database, Kafka or an object store.

Install it in a namespace of its own, with an OperatorGroup whose target is the namespace of the
GPU Operator's device plugin (`gpu-operator`). For other pods, set the variables `LABEL_SELECTOR`
and `CONTAINER` in `spec.config.env` of the Subscription.
"""
_Object = dict[str, Any]


def build(
    project: Project,
    layout: Layout,
    files: Mapping[str, _Object],
    *,
    dist: Path,
    gzip: Callable[[bytes], bytes],
) -> str:
    """Write a bundle as an archive into `dist`, and as the image `VERSION-bundle` into `layout`.

    Returns the file name of the archive.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, document in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        tar = tar_of(folder, prefix="", epoch=project.epoch)
    content = gzip(tar)
    archive = f"{project.name}-{project.version}-olm-bundle.tar.gz"
    (dist / archive).write_bytes(content)
    created = iso(project.epoch)
    config = {
        "architecture": "amd64",  # files only
        "os": "linux",
        "created": created,
        "config": {"Labels": files[ANNOTATIONS]["annotations"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id(tar)]},
    }
    image = layout.manifest(
        config=layout.json(config, CONFIG),
        layers=[layout.blob(content, LAYER)],
        annotations={"org.opencontainers.image.created": created},
    )
    layout.name(image, f"{project.version}-bundle")
    return archive


def bundle(project: Project, install: str, image: str) -> dict[str, _Object]:
    """The files of the bundle by name. Raises ReleaseError for an object with no place in it."""
    objects = list(yaml.safe_load_all(install))
    parts = _Parts(objects)
    files = {f"manifests/{_file(item)}": item for item in (*parts.crds, *parts.others)}
    version = f"manifests/{project.name}.clusterserviceversion.yaml"
    files[version] = _service_version(project, parts, image)
    prefix = "operators.operatorframework.io.bundle."
    annotations = {
        "mediatype.v1": "registry+v1",
        "manifests.v1": "manifests/",
        "metadata.v1": "metadata/",
        "package.v1": project.name,
        "channels.v1": CHANNEL,
        "channel.default.v1": CHANNEL,
    }
    files[ANNOTATIONS] = {
        "annotations": {f"{prefix}{key}": value for key, value in annotations.items()}
    }
    return files


class _Parts:
    """The objects of install.yaml, by what becomes of them."""

    def __init__(self, objects: list[_Object]) -> None:
        self.crds: list[_Object] = []
        self.others: list[_Object] = []
        self.deployments: list[_Object] = []
        self.rules: list[_Object] = []
        self.cluster_rules: list[_Object] = []
        for item in objects:
            self._sort(item)
        if len(self.deployments) != 1:
            raise ReleaseError(f"{len(self.deployments)} Deployments for OLM; it takes one")

    def _sort(self, item: _Object) -> None:
        metadata = item["metadata"]
        match item["kind"]:
            case "CustomResourceDefinition":
                self.crds.append(item)
            case "Namespace" | "ServiceAccount" | "ClusterRoleBinding" | "RoleBinding":
                pass  # OLM creates them
            case "Deployment":
                self.deployments.append(item)
            case "ClusterRole" if (
                "rbac.authorization.k8s.io/aggregate-to-view" in metadata["labels"]
            ):
                self.others.append(item)
            case "ClusterRole":
                self.cluster_rules += item["rules"]
            case "Role" if metadata["namespace"] == "default":
                # OLM knows no Role there: only rights in the whole cluster include this namespace.
                self.cluster_rules += item["rules"]
            case "Role":
                self.rules += item["rules"]
            case "Service":
                rest = {key: value for key, value in metadata.items() if key != "namespace"}
                self.others.append(item | {"metadata": rest})
            case kind:
                raise ReleaseError(
                    f"failed to make the bundle for OLM: {kind} {metadata['name']} has no place in "
                    "it; add it to release/olm.py"
                )


def _file(item: _Object) -> str:
    if item["kind"] == "CustomResourceDefinition":
        return f"{item['metadata']['name']}.crd.yaml"
    return f"{item['metadata']['name']}.{item['kind'].lower()}.yaml"


def _service_version(project: Project, parts: _Parts, image: str) -> _Object:
    chart = yaml.safe_load((project.folder / "charts" / project.name / "Chart.yaml").read_text())
    notes = chart["annotations"]
    kinds = yaml.safe_load(notes["artifacthub.io/crds"])
    icon = (project.folder / "docs/images/icon.svg").read_bytes()
    return {
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": f"{project.name}.v{project.version}",
            "namespace": "placeholder",
            "annotations": {
                "alm-examples": json.dumps(list(_examples(kinds, notes)), indent=1),
                "capabilities": "Seamless Upgrades",
                "categories": "Monitoring",
                "containerImage": image,
                "createdAt": iso(project.epoch),
                "description": project.description,
                # The operator writes inventories; users do not create any.
                "operators.operatorframework.io/internal-objects": json.dumps([kinds[0]["name"]]),
                "repository": project.source,
            },
        },
        "spec": {
            "displayName": project.name,
            "description": _DESCRIPTION,
            "version": project.version,
            "maturity": "alpha",
            "minKubeVersion": chart["kubeVersion"].removeprefix(">=").partition("-")[0],
            "keywords": chart["keywords"],
            "links": yaml.safe_load(notes["artifacthub.io/links"]),
            "provider": {"name": project.authors, "url": project.source},
            "icon": [{"base64data": base64.b64encode(icon).decode(), "mediatype": "image/svg+xml"}],
            "customresourcedefinitions": {"owned": kinds},
            "relatedImages": [{"name": project.name, "image": image}],
            "installModes": [{"type": mode, "supported": on} for mode, on in _MODES.items()],
            "install": {"strategy": "deployment", "spec": _strategy(parts)},
        },
    }


def _strategy(parts: _Parts) -> _Object:
    (deployment,) = parts.deployments
    pod = deployment["spec"]["template"]["spec"]
    for container in pod["containers"]:
        container["env"] = [
            _TARGET if entry["name"] == _TARGET["name"] else entry for entry in container["env"]
        ]
    account = {"serviceAccountName": pod["serviceAccountName"]}
    metadata = deployment["metadata"]
    return {
        "clusterPermissions": [account | {"rules": parts.cluster_rules}],
        "permissions": [account | {"rules": parts.rules}],
        "deployments": [
            {"name": metadata["name"], "label": metadata["labels"], "spec": deployment["spec"]}
        ],
    }


def _examples(kinds: list[_Object], notes: _Object) -> Iterator[_Object]:
    """The examples of the chart, and one for each kind without any: OLM wants one of each."""
    examples = yaml.safe_load(notes["artifacthub.io/crdsExamples"])
    yield from examples
    for kind in kinds:
        if kind["kind"] not in {one["kind"] for one in examples}:
            group = kind["name"].partition(".")[2]
            yield {
                "apiVersion": f"{group}/{kind['version']}",
                "kind": kind["kind"],
                "metadata": {"name": "example"},
            }
