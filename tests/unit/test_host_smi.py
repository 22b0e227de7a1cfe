"""The nvidia-smi of a node, found under the folder where a container sees the node's files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuid_operator.cli import host_smi

MACHINE = os.uname().machine
LIBRARY = "libnvidia-ml.so.1"
PRINT = '#!/bin/sh\necho "$LD_PRELOAD|${LD_LIBRARY_PATH-unset}|$0|$*"\nexit 3\n'


def install(root: Path, *paths: str, **links: str) -> None:
    """Create files; `links` are symbolic links, with __ for / in their names."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(PRINT)
        (root / path).chmod(0o755)
    for name, target in links.items():
        link = root / name.replace("__", "/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def found(root: Path) -> list[str] | None:
    """The paths of program and library below the root."""
    pair = host_smi.find(root)
    return pair and [str(path.relative_to(root)) for path in pair]


@pytest.mark.parametrize(
    "paths",
    [
        ["usr/bin/nvidia-smi", f"usr/lib64/{LIBRARY}"],
        ["usr/bin/nvidia-smi", f"usr/lib/{MACHINE}-linux-gnu/{LIBRARY}"],
        ["opt/bin/nvidia-smi", f"lib64/{LIBRARY}"],
        ["run/nvidia/driver/usr/bin/nvidia-smi", f"run/nvidia/driver/usr/lib64/{LIBRARY}"],
        [
            "home/kubernetes/bin/nvidia/bin/nvidia-smi",
            f"home/kubernetes/bin/nvidia/lib64/{LIBRARY}",
        ],
        ["usr/local/nvidia/bin/nvidia-smi", f"usr/local/nvidia/lib64/{LIBRARY}"],
        ["bin/nvidia-smi", f"lib64/{LIBRARY}"],  # as where the root is GKE's folder itself
    ],
)
def test_every_place_of_a_driver(tmp_path: Path, paths: list[str]) -> None:
    install(tmp_path, *paths)
    assert found(tmp_path) == paths


def test_a_driver_container_comes_before_what_is_left_on_the_host(tmp_path: Path) -> None:
    inside = ["run/nvidia/driver/usr/bin/nvidia-smi", f"run/nvidia/driver/usr/lib64/{LIBRARY}"]
    install(tmp_path, *inside, "usr/bin/nvidia-smi", f"usr/lib64/{LIBRARY}")
    assert found(tmp_path) == inside


def test_program_and_library_are_of_one_driver(tmp_path: Path) -> None:
    install(tmp_path, "run/nvidia/driver/usr/bin/nvidia-smi")
    install(tmp_path, "usr/bin/nvidia-smi", f"usr/lib64/{LIBRARY}")
    assert found(tmp_path) == ["usr/bin/nvidia-smi", f"usr/lib64/{LIBRARY}"]


def test_absolute_links_stay_below_the_root(tmp_path: Path) -> None:
    """As Debian has them, and as a usr-merged system has /bin and /lib64."""
    install(tmp_path, "usr/lib/nvidia/current/nvidia-smi", f"usr/lib/nvidia/current/{LIBRARY}.535")
    links = {
        "usr__bin__nvidia-smi": "/etc/alternatives/smi",
        "etc__alternatives__smi": "/usr/lib/nvidia/current/nvidia-smi",
        f"usr__lib64__{LIBRARY}": f"../../../../lib/nvidia/current/{LIBRARY}",
        "lib": "usr/lib",
    }
    install(tmp_path, **links)
    install(tmp_path, **{f"usr__lib__nvidia__current__{LIBRARY}": f"{LIBRARY}.535"})
    assert found(tmp_path) == [
        "usr/lib/nvidia/current/nvidia-smi",
        f"usr/lib/nvidia/current/{LIBRARY}.535",
    ]


@pytest.mark.parametrize("target", ["/usr/bin/nvidia-smi", "absent", "/proc/self/exe/x"])
def test_a_link_that_leads_nowhere_is_no_program(tmp_path: Path, target: str) -> None:
    install(tmp_path, f"usr/lib64/{LIBRARY}", **{"usr__bin__nvidia-smi": target})
    assert found(tmp_path) is None


def run(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpuid_operator.cli.host_smi", str(root)],
        env=os.environ | {"LD_LIBRARY_PATH": "/absent"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_becomes_nvidia_smi_with_the_library_preloaded(tmp_path: Path) -> None:
    program, library = tmp_path / "usr/bin/nvidia-smi", tmp_path / "usr/lib64" / LIBRARY
    install(tmp_path, "usr/bin/nvidia-smi", f"usr/lib64/{LIBRARY}")
    done = run(tmp_path)
    assert done.stdout == f"{library}|unset|{program}|-q -x\n"
    assert done.returncode == 3


@pytest.mark.parametrize("paths", [[], ["usr/bin/nvidia-smi"], [f"usr/lib64/{LIBRARY}"]])
def test_no_driver_is_a_command_that_is_not_found(tmp_path: Path, paths: list[str]) -> None:
    install(tmp_path, *paths)
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (127, "")
    assert f"no driver under {tmp_path}" in done.stderr
    assert "reader.hostDriver.root" in done.stderr
