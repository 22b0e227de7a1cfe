"""The admission policies, by the tester of the Sigstore policy controller."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.release.published import ROOT, Release, new_key

POLICIES = {"slsa-attestation": "provenance", "sbom-attestation": "sbom"}
TYPES = {"slsa-attestation": "slsaprovenance1", "sbom-attestation": "spdxjson"}
FOLDER = ROOT / "deployment" / "policy"


def judge(release: Release, policy: Path, image: str) -> subprocess.CompletedProcess[str]:
    return release.island.tool(
        "policy-tester", "-policy", policy, "-image", image, "-log-level", "error", check=False
    )


def ours(release: Release, name: str) -> Path:
    """The policy as `make release` wrote it, with this release's key."""
    return release.folder / "policy" / f"{name}.yaml"


def copy_of(release: Release, repository: str) -> str:
    """The image without anything that refers to it, in a repository of its own."""
    image = f"{release.registries[1]}/{repository}/gpuid-operator"
    release.island.tool("crane", "copy", release.image, f"{image}:1")
    return f"{image}@{release.about['image']}"


def attest(release: Release, image: str, *, key: Path, kind: str, predicate: Path) -> None:
    """In the form that the policy controller reads."""
    release.island.tool(
        *("cosign", "attest", "--key", key, "--type", kind, "--predicate", predicate),
        *("--new-bundle-format=false", "--use-signing-config=false", "--tlog-upload=false", image),
    )


def predicate(release: Release, policy: str) -> Path:
    """What `make release` attests for this policy."""
    name = {"slsa-attestation": "provenance.json", "sbom-attestation": "sbom-index.spdx.json"}
    return release.folder / name[policy]


@pytest.mark.parametrize("name", POLICIES)
def test_our_image_is_accepted(release: Release, name: str) -> None:
    tag = f"{release.repository}:{release.about['version']}"
    for image in (*release.images.values(), tag):
        done = judge(release, ours(release, name), image)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", POLICIES)
def test_an_unsigned_image_is_refused(release: Release, name: str) -> None:
    done = judge(release, ours(release, name), copy_of(release, f"unsigned-{name}"))
    assert done.returncode == 1
    assert "no matching attestations" in done.stdout


@pytest.mark.parametrize("name", POLICIES)
def test_another_key_is_refused(release: Release, name: str, tmp_path: Path) -> None:
    image = copy_of(release, f"other-key-{name}")
    other = new_key(release.island, tmp_path)
    attest(release, image, key=other, kind=TYPES[name], predicate=predicate(release, name))
    done = judge(release, ours(release, name), image)
    assert done.returncode == 1
    assert "no matching attestations" in done.stdout
    # The signature alone was wrong.
    attest(release, image, key=release.key, kind=TYPES[name], predicate=predicate(release, name))
    assert judge(release, ours(release, name), image).returncode == 0


@pytest.mark.parametrize("name", POLICIES)
def test_another_predicate_is_refused(release: Release, name: str) -> None:
    (other,) = set(POLICIES) - {name}
    image = copy_of(release, f"other-predicate-{name}")
    attest(release, image, key=release.key, kind=TYPES[other], predicate=predicate(release, other))
    assert judge(release, ours(release, other), image).returncode == 0
    done = judge(release, ours(release, name), image)
    assert done.returncode == 1
    assert "no matching attestations" in done.stdout


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("slsa-attestation", ("buildDefinition", "externalParameters", "source")),
        ("slsa-attestation", ("runDetails", "builder", "id")),
        ("sbom-attestation", ("packages",)),
    ],
)
def test_another_content_is_refused(
    release: Release, name: str, change: tuple[str, ...], tmp_path: Path
) -> None:
    """Signed with our key, but built from elsewhere, by someone else, or empty."""
    document = json.loads(predicate(release, name).read_text())
    inner = document
    for key in change[:-1]:
        inner = inner[key]
    inner[change[-1]] = [] if change == ("packages",) else "https://elsewhere.example/"
    path = tmp_path / "predicate.json"
    path.write_text(json.dumps(document))
    image = copy_of(release, f"content-{'-'.join(change).lower()}")
    attest(release, image, key=release.key, kind=TYPES[name], predicate=path)
    done = judge(release, ours(release, name), image)
    assert done.returncode == 1
    assert "failed evaluating cue policy" in done.stdout


@pytest.mark.parametrize("name", POLICIES)
def test_the_keyless_variant_asks_for_the_identity_of_the_workflow(
    name: str, release: Release
) -> None:
    """As it is, it looks for Sigstore's public services; test_keyless.py has others in place."""
    path = FOLDER / f"{name}-keyless.yaml"
    done = judge(release, path, release.image)
    assert done.returncode == 1
    assert "CIP is invalid" not in done.stdout + done.stderr
    assert "Fulcio" in done.stdout  # it went on to look for certificates
    by_key, keyless = (
        yaml.safe_load(one.read_text())["spec"] for one in (FOLDER / f"{name}.yaml", path)
    )
    assert by_key["images"] == keyless["images"]
    assert by_key["authorities"][0]["attestations"] == keyless["authorities"][0]["attestations"]
