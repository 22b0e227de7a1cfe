"""kubeconform with the schemas of the local cluster's own API server: nothing is downloaded."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from gpuid_operator.localcluster import LocalCluster
from tests.support.gotools import go_tool

_REF = re.compile(r'"#/definitions/([^"]+)"')


def write_schemas(cluster: LocalCluster, folder: Path) -> None:
    """One strict JSON schema per kind that the server knows, as kubeconform looks for them."""
    definitions: dict[str, Any] = cluster.client.get("/openapi/v2")["definitions"]
    texts = {name: json.dumps(_strict(name, body)) for name, body in definitions.items()}
    for name, body in definitions.items():
        for kind in body.get("x-kubernetes-group-version-kind", ()):
            reached = _closure(name, texts)
            schema = {
                "$ref": f"#/definitions/{name}",
                "definitions": {item: json.loads(texts[item]) for item in reached},
            }
            group = f"{kind['group']}-" if kind["group"] else ""
            file = folder / f"{kind['kind']}-{group}{kind['version']}.json".lower()
            file.write_text(json.dumps(schema))


def check(manifests: str, schemas: Path) -> dict[str, Any]:
    """What kubeconform says of manifests; raises AssertionError with its words of the bad ones."""
    location = (
        f"{schemas}/{{{{ .ResourceKind }}}}-{{{{ .Group }}}}-{{{{ .ResourceAPIVersion }}}}.json"
    )
    core = f"{schemas}/{{{{ .ResourceKind }}}}-{{{{ .ResourceAPIVersion }}}}.json"
    done = subprocess.run(
        [
            *(str(go_tool("kubeconform")), "-strict", "-output", "json", "-summary"),
            *("-schema-location", location, "-schema-location", core),
        ],
        input=manifests,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    summary: dict[str, Any] = json.loads(done.stdout)["summary"]
    return summary


def _closure(name: str, texts: dict[str, str]) -> set[str]:
    reached: set[str] = set()
    queue = [name]
    while queue:
        item = queue.pop()
        if item not in reached:
            reached.add(item)
            queue += _REF.findall(texts[item])
    return reached


def _strict(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The definition as a JSON schema: no unknown fields, and numbers where texts may stand."""
    if name.endswith(("util.intstr.IntOrString", "api.resource.Quantity")):
        return {"type": ["string", "integer", "number"]}
    if "properties" in body and name.startswith("io.k8s."):
        return {**body, "additionalProperties": False}
    return body
