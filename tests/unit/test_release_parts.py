"""The parts of a release that need no network: lock, Dockerfile, tars, policies, files."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from release import files, manifests, policies
from release.debian import ARCHITECTURES, LOCK, PACKAGES, Lock, Package, fetch
from release.dockerfile import configuration
from release.errors import ReleaseError
from release.oci import NAME, Layout, tar_of
from release.project import ROOT
from release.signer import Signer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_package_is_locked_for_every_architecture(architecture: str) -> None:
    locked = Lock.read().of(architecture)
    assert [one.name for one in locked] == sorted(PACKAGES)
    assert {one.architecture for one in locked} == {architecture, "all"}


def test_the_lock_file_is_as_it_would_be_written() -> None:
    text = LOCK.read_text()
    assert Lock.read().text() == text
    assert "://" not in text  # no mirror


def test_a_package_url_has_no_characters_of_its_own_meaning() -> None:
    package = Package("libstdc++6", "1:12.2+deb12u1", "arm64", "0" * 64, "pool/x.deb")
    assert package.purl == (
        "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2%2Bdeb12u1?arch=arm64&distro=debian-12"
    )


def test_a_package_that_no_mirror_has_is_an_error_that_names_the_mirrors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "x.deb").write_bytes(b"another content")
    monkeypatch.setenv("DEBIAN_MIRROR", f"file://{tmp_path}/nowhere file://{tmp_path}")
    package = Package("x", "1", "amd64", "0" * 64, "pool/x.deb")
    with pytest.raises(ReleaseError) as error:
        fetch(package, tmp_path / "cache")
    assert "failed to fetch x 1 (amd64)" in str(error.value)
    assert f"file://{tmp_path}/pool/x.deb: the content differs" in str(error.value)
    assert "DEBIAN_MIRROR" in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_the_last_stage_of_the_dockerfile_says_how_the_image_runs() -> None:
    config = configuration((ROOT / "Dockerfile").read_text())
    assert config["Entrypoint"] == ["python3", "-m", "gpuid_operator"]
    assert config["Cmd"] == ["run"]
    assert config["User"] == "65532:65532"
    assert config["ExposedPorts"] == {"8080/tcp": {}}


def test_a_line_that_only_a_builder_understands_is_refused() -> None:
    with pytest.raises(ReleaseError, match="HEALTHCHECK"):
        configuration("FROM base\nENV A=1\nHEALTHCHECK CMD true\n")


def test_a_tar_depends_on_names_contents_and_executable_bits_alone(tmp_path: Path) -> None:
    for name, mode in (("one", 0o600), ("two", 0o664)):
        folder = tmp_path / name
        (folder / "tmp").mkdir(parents=True)
        for file in sorted(("b", "a/x", "a-x"), reverse=name == "two"):
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(file)
            path.chmod(mode)
        (folder / "run.sh").write_text("")
        (folder / "run.sh").chmod(0o755)
        (folder / "link").symlink_to("/a/x")
    first, second = (tar_of(tmp_path / name, prefix="", epoch=7) for name in ("one", "two"))
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        modes = {member.name: member.mode for member in archive}
        assert {(one.uid, one.gid, one.mtime) for one in archive.getmembers()} == {(0, 0, 7)}
    assert modes["tmp"] == 0o1777
    assert (modes["run.sh"], modes["b"], modes["a"]) == (0o755, 0o644, 0o755)


def test_a_layout_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        layout = Layout(tmp_path / name)
        blob = layout.blob(b"content", "text/plain")
        manifest = layout.manifest(config=blob, layers=[blob], annotations={"b": "1", "a": "2"})
        layout.name(manifest, "tag")
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        written.append({path.name: path.read_bytes() for path in files})
    assert written[0] == written[1]


def test_the_policies_name_the_source_of_the_project() -> None:
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    for name in ("slsa-attestation", "slsa-attestation-keyless"):
        assert source in (policies.POLICIES / f"{name}.yaml").read_text()
    assert source == policies.SOURCE


IMAGE = "registry.example.com/team/gpuid-operator@sha256:" + "0" * 64


def test_install_yaml_is_everything_with_the_crds_first_and_the_image_by_digest() -> None:
    objects = list(yaml.safe_load_all(manifests.install(ROOT, IMAGE)))
    kinds = [item["kind"] for item in objects]
    crds = kinds.count("CustomResourceDefinition")
    assert kinds[: crds + 1] == ["CustomResourceDefinition"] * crds + ["Namespace"]
    names = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(set(names)) == len(names)
    (deployment,) = (item for item in objects if item["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == IMAGE


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The root of a source tree with a base of one Deployment."""
    folder = tmp_path / manifests.BASE
    folder.mkdir(parents=True)
    (folder / "kustomization.yaml").write_text("resources: [deployment.yaml]\n")
    (folder / "deployment.yaml").write_text("kind: Deployment\n        image: gpuid-operator\n")
    return folder


def test_a_base_that_only_kustomize_can_build_is_refused(base: Path, tmp_path: Path) -> None:
    assert IMAGE in manifests.install(tmp_path, IMAGE)
    kustomization = base / "kustomization.yaml"
    text = kustomization.read_text()
    for more in ("namePrefix: x-", "images: [{name: gpuid-operator, newName: other}]"):
        kustomization.write_text(f"{text}{more}\n")
        with pytest.raises(ReleaseError, match=r"namePrefix|newName"):
            manifests.install(tmp_path, IMAGE)


def test_a_base_without_the_image_is_refused(base: Path, tmp_path: Path) -> None:
    (base / "deployment.yaml").write_text("kind: Deployment\n        image: other\n")
    with pytest.raises(ReleaseError, match="0 lines"):
        manifests.install(tmp_path, IMAGE)


class Cosign(Signer):
    """A signer that writes what it was called with."""

    def run(self, *arguments: str) -> str:
        if "--bundle" in arguments:
            Path(arguments[arguments.index("--bundle") + 1]).write_text(" ".join(arguments))
        return "the public key"


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A build, with what is in the folder besides."""
    release = {"files": {"install.yaml": ""}, "platforms": {"amd64": ""}}
    (tmp_path / "release.json").write_text(json.dumps(release))
    names = ["install.yaml", "provenance.json", "sbom-index.spdx.json", "sbom-amd64.spdx.json"]
    names += [f"policy/{name}.yaml" for name in policies.NAMES]
    for name in (*names, "cosign.key", "cosign.pub", "gpuid-operator-0.0.9.tgz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize("key", ["cosign.key", None])
def test_the_checksums_are_of_every_file_of_this_release_and_are_signed(
    dist: Path, key: str | None
) -> None:
    files.write_checksums(dist, Cosign(key))
    lines = (dist / files.CHECKSUMS).read_text().splitlines()
    listed = {name: sha256 for sha256, name in (line.split("  ") for line in lines)}
    downloads = files.downloads(dist)
    assert [*listed, files.CHECKSUMS, files.BUNDLE] == [path.name for path in downloads]
    assert all(path.exists() for path in downloads)
    assert listed.keys() >= {"install.yaml", "release.json", "slsa-attestation.yaml"}
    assert not listed.keys() & {"cosign.key", "gpuid-operator-0.0.9.tgz"}
    assert ("cosign.pub" in listed) is bool(key)
    assert listed["install.yaml"] == hashlib.sha256(b"install.yaml").hexdigest()
    assert (dist / files.BUNDLE).read_text().startswith("sign-blob ")


def test_the_artifact_names_every_file(dist: Path) -> None:
    files.write_checksums(dist, Cosign("cosign.key"))
    folder = files.as_artifact(dist, "0.1.0")
    (manifest,) = json.loads((folder / "index.json").read_text())["manifests"]
    assert manifest["annotations"] == {NAME: "0.1.0-files"}
    blob = folder / "blobs" / manifest["digest"].replace(":", "/")
    titles = [one["annotations"].values() for one in json.loads(blob.read_text())["layers"]]
    assert [name for (name,) in titles] == [path.name for path in files.downloads(dist)]


def test_the_launcher_of_krew_runs_the_versions_of_python_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {
        entry.rpartition(" ")[2] for entry in project["classifiers"] if "Python ::" in entry
    }
    launcher = (ROOT / "release" / "kubectl-gpuid.sh").read_text()
    assert set(re.findall(r"python(3\.\d+)", launcher)) == versions - {"3"}
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in launcher
