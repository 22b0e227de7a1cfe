"""The plugin, installed as users install it: by krew, and from the wheel, as pipx does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from release.krew import BINARY, MANIFEST, PLATFORMS
from tests.release.published import Release
from tests.support.gotools import go_tool

FIRST_START = "kubectl gpuid: first start, installing the Python packages of the plugin\n"


def archive(release: Release) -> Path:
    return release.folder / f"{BINARY}-{release.about['version']}.tar.gz"


def krew(release: Release, folder: Path) -> Path:
    """A folder for PATH with a kubectl that only knows krew. It takes the archive from the build,
    because the manifest says where it will be on the forge."""
    program = folder / "kubectl"
    program.write_text(
        f'#!/bin/sh\nshift\nexec {go_tool("krew")} "$@" --archive={archive(release)}\n'
    )
    program.chmod(0o755)
    return folder


def run(*command: str | Path, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_krew_accepts_the_manifest_and_installs_every_platform(
    release: Release, tmp_path: Path
) -> None:
    path = f"{krew(release, tmp_path)}:{os.environ['PATH']}"
    manifest = release.folder / MANIFEST
    done = release.island.tool("validate-krew-manifest", "-manifest", manifest, PATH=path)
    assert f"all {len(PLATFORMS)} spec.platforms installed fine" in done.stderr
    assert "WARN" not in done.stderr
    platforms = yaml.safe_load(manifest.read_text())["spec"]["platforms"]
    address = f"{release.about['source']}/releases/download/v{release.about['version']}"
    assert {one["uri"] for one in platforms} == {f"{address}/{archive(release).name}"}
    sha256 = hashlib.sha256(archive(release).read_bytes()).hexdigest()
    assert {one["sha256"] for one in platforms} == {sha256}


def test_the_plugin_that_krew_installed_works(release: Release, tmp_path: Path) -> None:
    """Its first start needs a package index; the next one does not."""
    root = tmp_path / "a root"
    kubectl = krew(release, tmp_path) / "kubectl"
    manifest = f"--manifest={release.folder / MANIFEST}"
    run(kubectl, "krew", "install", manifest, settings={"KREW_ROOT": str(root)})
    plugin = root / "bin" / BINARY
    # Nothing in the folder of the user is imported.
    (tmp_path / "click.py").write_text("raise SystemExit('the wrong module')")
    command = ("env", "--chdir", tmp_path, plugin, "where", "--help")
    first, second = (run(*command, settings={}) for _ in range(2))
    assert (first.stderr, second.stderr) == (FIRST_START, "")
    ours = run(Path(sys.prefix) / "bin" / BINARY, "where", "--help", settings={})
    assert first.stdout == second.stdout == ours.stdout


def test_a_python_that_is_too_old_is_an_error_that_says_so(
    release: Release, tmp_path: Path
) -> None:
    release.island.run("tar", "--extract", "--file", archive(release), "--directory", tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("python3", *(f"python3.{minor}" for minor in range(11, 15))):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    done = release.island.run(tmp_path / BINARY, "--help", check=False, PATH=path)
    assert done.returncode == 1
    assert done.stderr.startswith("kubectl gpuid needs Python 3.11 or newer")
    assert not (tmp_path / "environment").exists()


@pytest.fixture(scope="module")
def wheel(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, as `pipx install` makes it, but its dependencies
    are those of this environment; pip finds that they are what the wheel asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "venv", "--without-pip", folder, settings={})
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder)
    path = release.folder / release.about["wheel"]
    # This environment has the project, too.
    run(*pip, "install", "--no-index", "--no-deps", "--force-reinstall", path, settings={})
    run(*pip, "check", settings={})
    return folder


@pytest.mark.parametrize(
    ("program", "argument", "said"),
    [
        (BINARY, "--help", "Commands:\n  export "),
        ("kubectl_complete-gpuid", "whe", "where\t"),
        ("gpuid-operator", "--help", "demo "),
    ],
)
def test_the_wheel_has_the_programs(wheel: Path, program: str, argument: str, said: str) -> None:
    path = wheel / "bin" / program
    assert str(wheel) in path.read_text()
    assert said in run(path, argument, settings={}).stdout
