"""docs/gitops: Argo CD's health check by its cases, and configuration that says what it should."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

GITOPS = Path(__file__).parents[2] / "docs" / "gitops"
SCRIPT = (GITOPS / "argocd" / "health.lua").read_text()
CASES = yaml.safe_load((GITOPS / "argocd" / "health_cases.yaml").read_text())
KINDS = ("GPUInventory", "GPUInventoryPolicy", "GPUQuarantine")


def lua() -> str:
    """The program of Debian's package lua5.4; Argo CD's own Lua is 5.1, whose syntax is enough."""
    for name in ("lua5.1", "lua5.4", "lua"):
        if program := shutil.which(name):
            return program
    why = "Lua is not installed: apt-get install lua5.4"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def literal(value: Any) -> str:
    """A JSON value in Lua; a null is a key that is not there."""
    if isinstance(value, dict):
        items = (f"[{literal(key)}] = {literal(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"{{{', '.join(map(literal, value))}}}"
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_health(case: dict[str, Any]) -> None:
    program = (
        f"obj = {literal(case['object'])}\n"
        f"local function check()\n{SCRIPT}\nend\n"
        "local health = check()\n"
        "print(health.status)\nprint(health.message)\n"
    )
    done = subprocess.run([lua(), "-"], input=program, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    status, message = done.stdout.splitlines()
    assert {"status": status, "message": message} == case["health"]


def test_the_cases_know_every_status_of_argo_cd() -> None:
    seen = {case["health"]["status"] for case in CASES}
    assert seen == {"Progressing", "Healthy", "Suspended", "Degraded"}


def test_the_config_map_holds_the_script() -> None:
    data = yaml.safe_load((GITOPS / "argocd" / "argocd-cm.yaml").read_text())["data"]
    for kind in KINDS:
        assert data[f"resource.customizations.health.gpuid.github.com_{kind}"] == SCRIPT
        ignored = data[f"resource.customizations.ignoreResourceUpdates.gpuid.github.com_{kind}"]
        assert "/status" in yaml.safe_load(ignored)["jsonPointers"]
    (exclusion,) = yaml.safe_load(data["resource.exclusions"])
    assert (exclusion["apiGroups"], exclusion["kinds"]) == (["gpuid.github.com"], ["GPUInventory"])


def layout() -> list[str]:
    """The folders of the repository in the layout of the page."""
    text = (GITOPS / "README.md").read_text()
    return re.findall(r"^    [├└]── (\w+)/", text, flags=re.MULTILINE)


def objects(path: str) -> dict[str, dict[str, Any]]:
    """The specs of a file, by name."""
    found = yaml.safe_load_all((GITOPS / path).read_text())
    return {body["metadata"]["name"]: body["spec"] for body in found}


def test_every_folder_of_the_layout_is_applied() -> None:
    folders = layout()
    assert folders == ["operator", "policies", "quarantines"]
    flux = objects("flux/kustomizations.yaml")
    assert [spec["path"] for spec in flux.values()] == [f"./gpuid/{name}" for name in folders]
    argocd = objects("argocd/applications.yaml")
    paths = [spec["source"]["path"] for spec in argocd.values()]
    assert paths == ["charts/gpuid-operator", *(f"gpuid/{name}" for name in folders[1:])]
    assert list(argocd) == list(flux) == [f"gpuid-{name}" for name in folders]
    assert all(spec["syncPolicy"]["automated"]["prune"] for spec in argocd.values())
    for name, spec in flux.items():
        after = [other["name"] for other in spec.get("dependsOn", ())]
        assert after == ([] if name == "gpuid-operator" else ["gpuid-operator"])
        # Ready=False of a quarantine can be for ever.
        assert spec["wait"] is (name != "gpuid-quarantines")
        assert spec["prune"] is True
