"""The bundle for OLM, by the validators that `operator-sdk bundle validate` runs."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.release.published import Release

DEPRECATED = 'The \\"operatorhub\\" validator is deprecated'
"""A warning that this validator always has."""


@pytest.fixture
def bundle(release: Release, tmp_path: Path) -> Path:
    """The folder in the archive."""
    archive = release.folder / f"gpuid-operator-{release.about['version']}-olm-bundle.tar.gz"
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


def said(release: Release, bundle: Path) -> list[str]:
    """Every error and warning."""
    more = ("--operatorhub_validate", "--object_validate")
    done = release.island.tool("operator-verify", "manifests", *more, bundle, check=False)
    return [line for line in done.stderr.splitlines() if DEPRECATED not in line]


def test_the_validators_find_nothing(release: Release, bundle: Path) -> None:
    assert said(release, bundle) == []


def test_the_validators_find_a_kind_without_its_crd(release: Release, bundle: Path) -> None:
    (bundle / "manifests" / "gpuquarantines.gpuid.github.com.crd.yaml").unlink()
    (error,) = said(release, bundle)
    assert "GPUQuarantine" in error
    assert "not found in bundle" in error


def test_the_image_of_the_bundle_has_its_labels_and_files(
    release: Release, bundle: Path, tmp_path: Path
) -> None:
    image = f"{release.repository}:{release.about['version']}-bundle"
    config = json.loads(release.island.tool("crane", "config", image).stdout)
    annotations = yaml.safe_load((bundle / "metadata" / "annotations.yaml").read_text())
    assert config["config"]["Labels"] == annotations["annotations"]
    exported = tmp_path / "image.tar"
    release.island.tool("crane", "export", image, exported)
    with tarfile.open(exported) as tar:
        names = {member.name for member in tar if member.isfile()}
    assert names == {str(path.relative_to(bundle)) for path in bundle.glob("m*/*.yaml")}


def test_the_bundle_runs_the_image_of_the_release(release: Release, bundle: Path) -> None:
    (path,) = bundle.glob("manifests/*.clusterserviceversion.yaml")
    version = yaml.safe_load(path.read_text())
    (deployment,) = version["spec"]["install"]["spec"]["deployments"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    images = {container["image"], version["metadata"]["annotations"]["containerImage"]}
    assert images == {release.image}
