"""The image is reproducible, for two architectures, and contains only what the operator needs."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from release.debian import ARCHITECTURES
from tests.release.published import Release, clone
from tests.support.manifests import KUBERNETES

TITLES = ("title", "description", "version", "revision", "created", "source", "authors", "licenses")
MACHINES = {"amd64": 62, "arm64": 183}
"""`e_machine` of an ELF file."""
UNCHECKED_HASH = 1


def test_another_user_elsewhere_and_later_gets_the_same(release: Release, tmp_path: Path) -> None:
    """Another path, time, user, umask, time zone; no cache; the working tree is not clean."""
    copy = clone(release.clone, tmp_path / "another place" / "of another length")
    (copy / "gpuid_operator" / "leftover.py").write_text("")
    home = tmp_path / "home"
    home.mkdir()
    settings = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    build = f"umask 077; test $(id -u) = 1000; exec {sys.executable} -m release build"
    build += f" --registry {release.registries[0]}/team"
    done = subprocess.run(
        ["unshare", "--user", "--map-user=1000", "--map-group=1000", "sh", "-ec", build],
        cwd=copy,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("release.json", "oci/index.json", *release.about["files"]):
        assert (copy / "dist" / name).read_bytes() == (release.folder / name).read_bytes(), name


def chart(release: Release) -> str:
    return f"{release.about['name']}-{release.about['version']}.tgz"


def test_every_registry_shows_the_same_digest(release: Release) -> None:
    version = release.about["version"]
    for tag, digest in ((version, "image"), (f"{version}-base", "base")):
        for registry in release.registries:
            name = f"{registry}/team/gpuid-operator:{tag}"
            assert (
                release.island.tool("crane", "digest", name).stdout.strip() == release.about[digest]
            )
    charts = {
        release.island.tool("crane", "digest", f"{one}/team/charts/gpuid-operator:{version}").stdout
        for one in release.registries
    }
    assert len(charts) == 1


def test_the_index_says_what_it_is(release: Release) -> None:
    index = json.loads(release.island.tool("crane", "manifest", release.image).stdout)
    platforms = [one["platform"] for one in index["manifests"]]
    assert platforms == [{"architecture": arch, "os": "linux"} for arch in ARCHITECTURES]
    notes = index["annotations"]
    assert all(notes[f"org.opencontainers.image.{title}"] for title in TITLES)
    git = ["git", "-C", str(release.clone), "show", "-s", "--format=%H", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    assert notes["org.opencontainers.image.revision"] == commit == release.about["commit"]
    base = notes["org.opencontainers.image.base.name"]
    found = f"{release.registries[1]}/team/{base}"
    digest = release.island.tool("crane", "digest", found).stdout.strip()
    assert notes["org.opencontainers.image.base.digest"] == digest


def test_the_dockerfile_says_how_it_runs(release: Release) -> None:
    config = json.loads(release.island.tool("crane", "config", release.images["amd64"]).stdout)
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Entrypoint"] == ["python3", "-m", "gpuid_operator"]
    assert "PYTHONPATH=/app" in config["config"]["Env"]


Files = dict[str, tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def files(
    request: pytest.FixtureRequest, release: Release, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Files]:
    """An architecture, and every file and link of its image, with the content of files."""
    path = tmp_path_factory.mktemp("files") / "image.tar"
    release.island.tool("crane", "export", release.images[request.param], path)
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if not member.isdir():
                found[member.name] = (member, content.read() if content else b"")
    return request.param, found


def test_programs_are_of_the_architecture_and_find_their_libraries(
    files: tuple[str, Files],
) -> None:
    architecture, content = files
    programs = {name: data for name, (_, data) in content.items() if data.startswith(b"\x7fELF")}
    assert any("/pydantic_core/" in name for name in programs)
    assert {data[18] for data in programs.values()} == {MACHINES[architecture]}
    present = {Path(name).name for name in content}
    missing = {name: needed(data) - present for name, data in programs.items()}
    assert not {name: absent for name, absent in missing.items() if absent}


def needed(elf: bytes) -> set[str]:
    """The libraries that an ELF file (64 bits, little endian) asks for: its DT_NEEDED entries."""
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", elf, offset + size * i) for i in range(count)]
    dynamic = next((one for one in segments if one[0] == 2), None)
    if dynamic is None:
        return set()
    entries = list(struct.iter_unpack("<qQ", elf[dynamic[2] : dynamic[2] + dynamic[5]]))
    address = next(value for tag, value in entries if tag == 5)  # DT_STRTAB
    names = next(
        one[2] + address - one[3]
        for one in segments
        if one[0] == 1 and one[3] <= address < one[3] + one[5]
    )
    starts = [names + value for tag, value in entries if tag == 1]
    return {elf[start : elf.index(b"\0", start)].decode() for start in starts}


def test_byte_code_does_not_depend_on_time(
    files: tuple[str, Files],
) -> None:
    _, content = files
    compiled = {name: data for name, (_, data) in content.items() if name.endswith(".pyc")}
    assert any(name.startswith("app/gpuid_operator/") for name in compiled)
    assert any(name.startswith("usr/lib/python3.11/asyncio/") for name in compiled)
    flags = {struct.unpack_from("<I", data, 4)[0] for data in compiled.values()}
    assert flags == {UNCHECKED_HASH}
    assert len({member.mtime for member, _ in content.values()}) == 2  # the base's and the commit's
    assert {(member.uid, member.gid) for member, _ in content.values()} == {(0, 0)}


def test_there_is_no_shell(files: tuple[str, Files]) -> None:
    _, content = files
    programs = {name for name in content if Path(name).parent in map(Path, ("usr/bin", "usr/sbin"))}
    assert programs == {"usr/bin/python3", "usr/bin/python3.11"}


def test_there_is_no_local_cluster_and_no_demo(files: tuple[str, Files]) -> None:
    _, content = files
    own = {name: data for name, (_, data) in content.items() if "gpuid_operator/" in name}
    assert "app/gpuid_operator/operator/app.py" in own
    assert not [name for name in own if "localcluster" in name or "/demo" in name]
    assert not [name for name, data in own.items() if b"gpuid_operator.localcluster" in data]
    assert not [name for name in content if name.endswith((".go", "/go.mod", "/go.sum"))]


def test_the_chart_is_an_artifact_of_the_same_version(release: Release, tmp_path: Path) -> None:
    version = release.about["version"]
    name = f"oci://{release.registries[1]}/team/charts/gpuid-operator"
    where = ("--version", version, "--plain-http")
    for helm in ("helm3", "helm4"):
        about = yaml.safe_load(release.island.tool(helm, "show", "chart", name, *where).stdout)
        assert (about["version"], about["appVersion"]) == (version, version)
    release.island.tool("helm3", "pull", name, *where, "--destination", tmp_path)
    pulled = (tmp_path / chart(release)).read_bytes()
    assert pulled == (release.folder / chart(release)).read_bytes()
    template = ("template", "x", tmp_path / chart(release), KUBERNETES)
    rendered = release.island.tool("helm3", *template).stdout
    assert f"gpuid-operator:{version}" in rendered
