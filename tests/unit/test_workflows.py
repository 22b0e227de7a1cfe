"""The workflows run what they promise, with few rights and pinned actions; the forms are valid."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FORGE = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text()) for path in (FORGE / "workflows").glob("*.y*ml")
}
FORMS = sorted(path for path in (FORGE / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
MANIFESTS = {
    "docker": ["Dockerfile"],
    "github-actions": [".github/workflows/*.yaml"],
    "gomod": ["go.mod"],
    "pip": ["pyproject.toml", "*.txt"],
}
"""Where Dependabot looks in a folder, by ecosystem."""


def jobs(workflow: str) -> list[dict[str, Any]]:
    return list(WORKFLOWS[workflow]["jobs"].values())


def steps(workflow: str) -> Iterator[dict[str, Any]]:
    for job in jobs(workflow):
        yield from job["steps"]


def triggers(workflow: str) -> dict[str, Any]:
    found: dict[str, Any] = WORKFLOWS[workflow][True]  # YAML 1.1 reads the key `on` as true
    return found


def commands(workflow: str) -> str:
    return "\n".join(step.get("run", "") for step in steps(workflow))


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_action_is_pinned_by_a_commit_and_says_its_version(workflow: str) -> None:
    text = (FORGE / "workflows" / f"{workflow}.yaml").read_text()
    uses = re.findall(r"uses:\s*(.*)", text)
    assert uses
    pinned = re.compile(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [action for action in uses if not pinned.fullmatch(action)] == []


def test_an_action_has_one_version_in_all_workflows() -> None:
    pins: dict[str, set[str]] = {}
    for workflow in WORKFLOWS:
        for step in steps(workflow):
            action, _, commit = step.get("uses", "").partition("@")
            pins.setdefault(action, set()).add(commit)
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_workflow_names_its_rights_and_its_bounds(workflow: str) -> None:
    rights = WORKFLOWS[workflow]["permissions"]
    assert isinstance(rights, dict)  # not `write-all`
    if workflow != "release":
        assert rights == {"contents": "read"}
    assert all("permissions" not in job for job in jobs(workflow))
    assert all(job["timeout-minutes"] <= 180 for job in jobs(workflow))


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_checkout_leaves_no_token_behind(workflow: str) -> None:
    found = [
        step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout")
    ]
    assert found
    assert all(step["with"]["persist-credentials"] is False for step in found)


def test_code_of_a_pull_request_gets_neither_secrets_nor_write_access() -> None:
    assert [name for name in WORKFLOWS if "pull_request_target" in triggers(name)] == []
    strangers = [name for name in WORKFLOWS if "pull_request" in triggers(name)]
    assert strangers == ["pull-request"]
    assert "secrets." not in (FORGE / "workflows" / "pull-request.yaml").read_text()


def test_a_pull_request_is_linted_and_tested_on_every_supported_python() -> None:
    (job,) = jobs("pull-request")
    versions = job["strategy"]["matrix"]["python"]
    named = [entry.rpartition(" ")[2] for entry in PROJECT["classifiers"] if "Python ::" in entry]
    assert versions == [version for version in named if "." in version]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert job["strategy"]["fail-fast"] is False
    setup = next(step for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert setup["with"]["python-version"] == "${{ matrix.python }}"
    assert (ROOT / setup["with"]["cache-dependency-path"]).exists()
    assert {"make lint", "make test-unit"} <= set(commands("pull-request").splitlines())


def test_a_newer_push_ends_the_run_of_an_older_one_for_pull_requests_only() -> None:
    concurrency = WORKFLOWS["pull-request"]["concurrency"]
    assert "github.ref" in concurrency["group"]
    assert concurrency["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"


def test_every_tier_runs_at_night_and_on_demand() -> None:
    assert set(triggers("nightly")) == {"schedule", "workflow_dispatch"}
    assert "bash .ci/run" in commands("nightly")
    makefile, script = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    everything = re.search(r"^test: (.*?) ##", makefile, re.MULTILINE)
    assert everything is not None
    tiers = {f"test-{path.name}" for path in (ROOT / "tests").iterdir() if tier(path)}
    assert tiers - {"test-release", "test-faults"} <= set(everything[1].split())
    # The whole campaign takes hours; a part of it belongs to the cluster tests.
    assert "pytest tests/cluster tests/faults " in makefile
    assert "make test " in script
    assert "make test-release " in script


def tier(path: Path) -> bool:
    return path.is_dir() and any(path.glob("test_*.py"))


def test_a_release_has_all_files_and_an_attestation_of_each() -> None:
    assert "-m release files | xargs gh release create" in commands("release")
    (attest,) = (step for step in steps("release") if "attest" in step.get("uses", ""))
    subjects = attest["with"]["subject-checksums"]
    assert f"cat dist/checksums.txt - >{subjects}" in commands("release")
    assert WORKFLOWS["release"]["permissions"]["attestations"] == "write"


def test_dependabot_looks_at_every_place_that_pins_something() -> None:
    config = yaml.safe_load((FORGE / "dependabot.yml").read_text())
    assert config["version"] == 2
    watched: dict[str, list[str]] = {}
    for entry in config["updates"]:
        folders = entry.get("directories") or [entry["directory"]]
        for folder in folders:
            where = ROOT / folder.strip("/")
            patterns = MANIFESTS[entry["package-ecosystem"]]
            assert any(any(where.glob(pattern)) for pattern in patterns), folder
        watched[entry["package-ecosystem"]] = folders
    assert set(watched) == set(MANIFESTS)
    modules = [
        f"/{path.parent.relative_to(ROOT)}" for path in ROOT.glob("gpuid_operator/**/go.mod")
    ]
    assert watched["gomod"] == modules


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_an_issue_form_is_one_that_the_forge_accepts(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert content["name"]
    assert content["description"]
    fields = [item for item in content["body"] if item["type"] != "markdown"]
    assert {item["type"] for item in fields} <= {"checkboxes", "dropdown", "input", "textarea"}
    ids = [item["id"] for item in fields]
    assert len(ids) == len(set(ids))
    assert all(item["attributes"]["label"] for item in fields)
    assert any(item.get("validations", {}).get("required") for item in fields)
    for item in fields:
        options = item["attributes"].get("options")
        assert bool(options) is (item["type"] in ("checkboxes", "dropdown"))
