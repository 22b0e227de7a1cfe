"""The commands of the documentation, and the test that runs each.

A command is a line of a fenced block without a language, or of one marked as `sh` or `console`.
Lines that follow a backslash belong to it; in a block with lines that begin with `$ `, all others
are output. A block that needs more than this project can start says so in its first line:
`# needs …`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpuid_operator.localcluster import LocalCluster

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "charts/gpuid-operator/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
NEEDS = re.compile(r"# needs [a-zA-Z].*")
FENCED = re.compile(r"^ *```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "console")

HERE = "tests/cluster/test_documented_commands.py"
CHART = "tests/node/test_install.py::test_the_chart"
"""Both run what is listed with them as it is written, except for the chart's own commands."""
KUSTOMIZATION = "tests/node/test_install.py::test_the_kustomization"
IMAGE = "tests/node/operator_image.py"
RELEASE = "tests/release/test_image.py"
SIMULATED = "tests/node/test_install.py::test_the_simulated_device_plugin"
PLUGIN = "tests/cluster/plugin/"
INSTALLED = "tests/release/test_plugin.py"
TARGETS = "tests/unit/test_documented_commands.py::test_make_has_the_target"
COLLECTED = "tests/unit/test_documented_commands.py::test_pytest_finds_what_it_should_run"

RUN_BY: dict[str, str] = {
    r"make demo": "tests/cluster/test_demo.py",
    r"make (venv|lint|test|test-unit|test-sinks .*|test-cluster .*)": ".ci/run",
    r"make docs": "tests/unit/test_site.py",
    r"make crds": "tests/unit/test_crd.py",
    r"make (help|screenshots)": TARGETS,
    r"\.venv/bin/pytest .*": COLLECTED,
    r"\.venv/bin/gpuid-operator cluster (up|down) .*|grep -n part_number /tmp/gpuid/.*": (
        "tests/cluster/test_localcluster.py"
    ),
    r"scripts/base-image.sh .*|buildah bud .*": IMAGE,
    r"git (clone|checkout) .*|make dist|jq -r .image dist/release.json": RELEASE,
    # Before the patterns of commands that run anywhere: these need pods that run.
    r"kubectl exec -n gpu-operator daemonset/simulated-device-plugin .*": SIMULATED,
    r"kubectl get gpuinventory kind-control-plane .*": SIMULATED,
    r"kubectl (create namespace gpu-operator|apply -k deployment/simulated)": SIMULATED,
    r"kubectl apply -k deployment/overlays/stdout": KUSTOMIZATION,
    r"kubectl -n gpuid logs .*": KUSTOMIZATION,
    r"kubectl apply -f dist/install.yaml": (
        "tests/cluster/test_manifests.py::test_install_yaml_is_the_base_with_another_image"
    ),
    r"kubectl -n NAMESPACE (logs|get --raw) .*": CHART,
    r"kubectl delete -k deployment/overlays/stdout -l .*": (
        "tests/cluster/test_helm.py::test_kustomize_removal_by_label_keeps_the_inventories"
    ),
    r"kubectl apply -k deployment/overlays/gpu-kernel-param-monitor": (
        "tests/cluster/test_manifests.py::test_the_server_accepts_the_kustomizations"
    ),
    r"kubectl delete crd .*": "tests/support/crds.py",
    r"kubectl apply -f policy.yaml": "tests/cluster/test_policy_validation.py",
    r"kubectl diff -f policies/ .*": "tests/cluster/test_policy_gitops.py",
    r"helm (upgrade --install|test|uninstall) gpuid-operator .*": CHART,
    r"helm pull oci://.* --untar": RELEASE,
    r"helm template gpuid .*reader-nri.yaml .*": "tests/cluster/test_chart_reader.py",
    r"pipx install dist/.*|kubectl krew install .*": INSTALLED,
    r"kubectl apply -f crds/": "tests/cluster/test_localcluster.py",
    r"\.venv/bin/gpuid-operator run": "tests/support/operators.py",
    r"kubectl gpuid read .*": PLUGIN + "test_read.py",
    r"kubectl gpuid ui .*": "tests/cluster/test_ui.py",
    r"kubectl gpuid where .* --contexts .*": PLUGIN + "test_contexts.py",
    r"echo \$\?": PLUGIN + "test_read.py",
    r"kubectl gpuid .*": HERE,
    r"kubectl (annotate|cordon|create|delete|describe|drain|get|label) .*": HERE,
    r"kubectl -n NAMESPACE get .*": HERE,
}
"""The first pattern that matches a whole command has the file, or the test, that runs it, or runs
the same on a cluster, an image or a folder of its own."""


@dataclass(frozen=True)
class Command:
    page: str
    text: str
    needs: str | None = None
    """What the reader has to bring, as the block says."""

    @property
    def run_by(self) -> str | None:
        return next((by for one, by in RUN_BY.items() if re.fullmatch(one, self.text)), None)

    def run(self, cluster: LocalCluster, folder: Path, names: Mapping[str, str]) -> str:
        """What it prints, in `folder`, with each of the page's names replaced by a real one."""
        text = self.text
        for name, real in names.items():
            text = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.])", real, text)
        programs = [str(Path(sys.executable).parent), str(cluster.kubectl_program.parent)]
        environment = os.environ | {
            "KUBECONFIG": str(cluster.kubeconfig),
            "PATH": os.pathsep.join([*programs, os.environ["PATH"]]),
        }
        # grep fails where it finds nothing.
        shell = ["bash", *(() if "grep" in text else ("-o", "pipefail")), "-c", text]
        done = subprocess.run(
            shell, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        said = f"{self.page}: {text}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, said
        return done.stdout


def commands() -> list[Command]:
    """Every command of PAGES, except those of docs/verify.md that its own test runs with their
    output."""
    return [command for page in PAGES for command in _of(page)]


def _of(page: Path) -> Iterator[Command]:
    name = page.relative_to(ROOT).as_posix()
    text = page.read_text(encoding="utf-8")
    for language, block in FENCED.findall(text):
        if language not in SHELL or (language == "console" and name == "docs/verify.md"):
            continue
        lines = [line.strip() for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
        first = lines[0] if NEEDS.fullmatch(lines[0]) else None
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            command = re.sub(r"(^|\s+)# .*", "", line).strip()
            if command:
                yield Command(name, re.sub(r"  +", " ", command), first)
