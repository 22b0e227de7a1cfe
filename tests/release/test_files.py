"""The files of a release: the same in every registry, with checksums that the key signed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from release.files import BUNDLE, CHECKSUMS, PUBLIC_KEY, downloads
from tests.release.published import Release, new_key


@pytest.fixture
def pulled(release: Release, tmp_path: Path) -> Path:
    """A folder with the files, from the second registry."""
    tag = f"{release.registries[1]}/team/gpuid-operator:{release.about['version']}-files"
    folder = tmp_path / "files"
    release.island.tool("oras", "pull", "--no-tty", "--output", folder, tag)
    return folder


def verify(release: Release, folder: Path, key: Path) -> subprocess.CompletedProcess[str]:
    how = ("--key", key, "--insecure-ignore-tlog", "--bundle", folder / BUNDLE)
    return release.island.tool("cosign", "verify-blob", *how, folder / CHECKSUMS, check=False)


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sha256sum", "--check", CHECKSUMS], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_registry_has_every_file(release: Release, pulled: Path) -> None:
    files = {path.name: path.read_bytes() for path in downloads(release.folder)}
    assert {path.name: path.read_bytes() for path in pulled.iterdir()} == files
    assert files[PUBLIC_KEY] == release.public_key.read_bytes()
    assert not [name for name, content in files.items() if b"PRIVATE KEY" in content]


def test_the_key_signed_the_checksums(release: Release, pulled: Path, tmp_path: Path) -> None:
    assert check(pulled).returncode == 0
    done = verify(release, pulled, release.public_key)
    assert done.returncode == 0, done.stderr
    other = new_key(release.island, tmp_path / "other").with_suffix(".pub")
    assert "invalid signature" in verify(release, pulled, other).stderr


def test_a_changed_file_is_noticed(release: Release, pulled: Path) -> None:
    with (pulled / "install.yaml").open("a") as file:
        file.write("# more")
    assert "install.yaml: FAILED" in check(pulled).stdout
    # Checksums that fit are not the signed ones.
    line = subprocess.run(
        ["sha256sum", "install.yaml"], cwd=pulled, capture_output=True, text=True, check=True
    ).stdout
    (pulled / CHECKSUMS).write_text(line)
    assert check(pulled).returncode == 0
    assert verify(release, pulled, release.public_key).returncode != 0
