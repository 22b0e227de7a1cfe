"""Presets find the pods of well-known installations and no others, in the order that is said."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.presets import DRIVER_ROOT_SCRIPT, NAMES, PRESETS, expand
from gpuid_operator.plan.target import NVIDIA_SMI, Target
from tests.support.api_objects import matches
from tests.support.preset_pods import INSTALLED, TRAPS, InstalledPod


def finds(target: Target, pod: InstalledPod) -> bool:
    """Whether a pod is one of the target, and its container is found by name."""
    body = {
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": "u"},
        "spec": {"nodeName": "n1", "containers": [{"name": name} for name in pod.containers]},
    }
    return (
        target.namespace == pod.namespace
        and matches(pod.labels, target.selector)
        and TargetPod.from_pod(body, container=target.container, required=True) is not None
    )


@pytest.mark.parametrize("pod", INSTALLED, ids=lambda pod: pod.name)
def test_the_pods_of_an_installation_are_found_by_its_preset(pod: InstalledPod) -> None:
    found = [target for target in expand("auto") if finds(target, pod)]
    assert {target.preset for target in found} == {pod.preset}
    assert found[0].container == pod.containers[0]
    assert [target for target in expand(pod.preset) if finds(target, pod)] == found


@pytest.mark.parametrize("pod", TRAPS, ids=lambda pod: pod.name)
def test_pods_that_validate_are_found_by_none(pod: InstalledPod) -> None:
    for namespace in {pod.namespace, *(one.namespace for one in INSTALLED)}:
        moved = InstalledPod(pod.name, "", namespace, pod.labels, pod.containers)
        assert not [target for target in expand("auto") if finds(target, moved)]


def test_auto_is_every_preset_from_the_one_that_sees_most() -> None:
    auto = expand("auto")
    assert list(dict.fromkeys(target.preset for target in auto)) == [
        "gpu-operator",
        "static-manifest",
        "gke",
        "dra-driver",
        "dcgm-exporter",
        "reader",
    ]
    assert auto == tuple(target for name in PRESETS for target in expand(name))
    assert len(set(auto)) == len(auto)
    assert (auto[0].container, auto[0].command) == ("nvidia-driver-ctr", NVIDIA_SMI)


@pytest.mark.parametrize("preset", NAMES)
def test_a_namespace_stands_in_for_the_default_ones(preset: str) -> None:
    moved = expand(preset, namespace="mine")
    assert {target.namespace for target in moved} == {"mine"}
    assert len(set(moved)) == len(moved)
    assert {(one.selector, one.container) for one in moved} == {
        (one.selector, one.container) for one in expand(preset)
    }


def test_an_unknown_preset_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="unknown preset gpu; the presets are gpu-operator, sta"):
        expand("gpu")


SMI = """#!/bin/sh
[ -z "$LD_LIBRARY_PATH" ] || { echo "it has a library path" >&2; exit 1; }
echo "$0 $* with $LD_PRELOAD"
"""


class TestDriverRoot:
    """The script that runs the nvidia-smi of a driver root, with folders of the test as roots."""

    @pytest.fixture
    def roots(self, tmp_path: Path) -> Path:
        (tmp_path / "driver-root").mkdir()
        (tmp_path / "host").mkdir()
        return tmp_path

    def run(self, roots: Path) -> subprocess.CompletedProcess[str]:
        script = DRIVER_ROOT_SCRIPT
        for root in ("/driver-root", "/host"):
            script = script.replace(f"{root} ", f"{roots}{root} ").replace(
                f"{root};", f"{roots}{root};"
            )
        assert str(roots) in script
        return subprocess.run(
            ["sh", "-c", script],
            env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": "/usr/lib64"},
            capture_output=True,
            text=True,
            check=False,
        )

    def smi(self, root: Path, folder: str) -> None:
        file = root / folder / "nvidia-smi"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SMI)
        file.chmod(0o755)

    def library(self, root: Path, folder: str) -> None:
        file = root / folder / "libnvidia-ml.so.1"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    @pytest.mark.parametrize("root", ["driver-root", "host"])
    @pytest.mark.parametrize("folder", ["opt/bin", "usr/bin", "usr/sbin", "bin", "sbin"])
    @pytest.mark.parametrize("libraries", ["usr/lib64", "usr/lib/x86_64-linux-gnu", "lib64"])
    def test_program_and_library_are_found(
        self, roots: Path, root: str, folder: str, libraries: str
    ) -> None:
        self.smi(roots / root, folder)
        self.library(roots / root, libraries)
        done = self.run(roots)
        assert done.stdout == (
            f"{roots}/{root}/{folder}/nvidia-smi -q -x"
            f" with {roots}/{root}/{libraries}/libnvidia-ml.so.1\n"
        )
        assert done.returncode == 0

    def test_the_driver_root_comes_before_the_host(self, roots: Path) -> None:
        for root in ("driver-root", "host"):
            self.smi(roots / root, "usr/bin")
            self.library(roots / root, "usr/lib64")
        assert self.run(roots).stdout.startswith(f"{roots}/driver-root/")

    def test_a_library_of_another_root_does_not_count(self, roots: Path) -> None:
        self.smi(roots / "driver-root", "usr/bin")
        self.smi(roots / "host", "usr/bin")
        self.library(roots / "host", "usr/lib64")
        assert self.run(roots).stdout.startswith(f"{roots}/host/usr/bin/nvidia-smi -q -x with")

    def test_a_link_that_leads_out_of_the_root_does_not_count(self, roots: Path) -> None:
        """Debian's alternatives are absolute links, which dangle in a container."""
        host = roots / "host"
        self.smi(host, "usr/lib/nvidia/current")
        self.library(host, "usr/lib/x86_64-linux-gnu/nvidia/current")
        for link in ("usr/bin/nvidia-smi", "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"):
            (host / link).parent.mkdir(parents=True, exist_ok=True)
            (host / link).symlink_to("/etc/alternatives/absent")
        assert "/usr/lib/nvidia/current/nvidia-smi -q -x with" in self.run(roots).stdout

    def test_nothing_found_is_a_command_that_is_not_there(self, roots: Path) -> None:
        done = self.run(roots)
        assert (done.returncode, done.stdout) == (127, "")
        assert done.stderr.startswith("nvidia-smi: not found")
