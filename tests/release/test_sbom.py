"""The bill of materials: found with the image; it says what a scanner sees and what is locked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from release.debian import ARCHITECTURES, Lock
from tests.release.published import Release

SPDX = "application/spdx+json"
OWN = "gpuid-operator"


def tagged(release: Release, name: str) -> dict[str, Any]:
    """The document by the tag that ko's users look for."""
    digest = release.images[name].partition("@")[2]
    tag = f"{release.repository}:{digest.replace(':', '-')}.sbom"
    (layer,) = json.loads(release.island.tool("crane", "manifest", tag).stdout)["layers"]
    assert layer["mediaType"] == "text/spdx+json"
    blob = release.island.tool("crane", "blob", f"{release.repository}@{layer['digest']}")
    return json.loads(blob.stdout)  # type: ignore[no-any-return]


def packages(document: dict[str, Any], kind: str) -> set[tuple[str, str]]:
    """Names and versions of the packages whose purl is of this kind."""
    return {
        (one["name"].lower().replace("_", "-"), one["versionInfo"])
        for one in document["packages"]
        for reference in one["externalRefs"]
        if reference["referenceLocator"].startswith(f"pkg:{kind}/")
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_lists_what_a_scanner_finds_and_what_is_locked(
    release: Release, architecture: str
) -> None:
    document = tagged(release, architecture)
    scan = release.island.tool(
        *("syft", "scan", f"registry:{release.images[architecture]}", "--output", "syft-json"),
        SYFT_REGISTRY_INSECURE_USE_HTTP="true",
        SYFT_CHECK_FOR_APP_UPDATE="false",
    )
    artifacts = json.loads(scan.stdout)["artifacts"]
    found = {
        kind: {
            (one["name"].lower().replace("_", "-"), one["version"])
            for one in artifacts
            if one["type"] == kind
        }
        for kind in ("deb", "python")
    }
    assert packages(document, "deb") == found["deb"]
    assert packages(document, "pypi") == found["python"]
    lock = Lock.read(release.clone / "release/debian.lock").of(architecture)
    assert packages(document, "deb") == {(one.name, one.version) for one in lock}
    requirements = (release.clone / "requirements/runtime.txt").read_text()
    pinned = re.findall(r"^([a-z0-9-]+)==(\S+)", requirements, re.MULTILINE)
    assert packages(document, "pypi") <= set(pinned)
    assert packages(document, "generic") == {(OWN, release.about["version"])}


def test_that_of_the_index_has_both_architectures(release: Release) -> None:
    document = tagged(release, "index")
    purposes = [one.get("primaryPackagePurpose") for one in document["packages"]]
    assert purposes.count("CONTAINER") == 1 + len(ARCHITECTURES)
    identifiers = {one["SPDXID"] for one in document["packages"]}
    assert len(identifiers) == len(document["packages"])
    ends = {
        end
        for one in document["relationships"]
        for end in (one["spdxElementId"], one["relatedSpdxElement"])
    }
    assert ends == identifiers | {"SPDXRef-DOCUMENT"}
    both = packages(tagged(release, "amd64"), "deb") | packages(tagged(release, "arm64"), "deb")
    assert packages(document, "deb") == both


@pytest.mark.parametrize("name", ["index", *ARCHITECTURES])
def test_it_refers_to_the_image(release: Release, name: str, tmp_path: Path) -> None:
    image = release.images[name]
    arguments = ("discover", "--artifact-type", SPDX, "--format", "json", image)
    (referrer,) = json.loads(release.island.tool("oras", *arguments).stdout)["referrers"]
    assert referrer["artifactType"] == SPDX
    manifest = json.loads(
        release.island.tool("oras", "manifest", "fetch", referrer["reference"]).stdout
    )
    assert manifest["subject"]["digest"] == image.partition("@")[2]
    (layer,) = manifest["layers"]
    path = tmp_path / "sbom.json"
    blob = f"{release.repository}@{layer['digest']}"
    release.island.tool("oras", "blob", "fetch", "--output", path, blob)
    assert json.loads(path.read_text()) == tagged(release, name)
    # It is SPDX: another program reads it, and finds the same packages.
    converted = release.island.tool("syft", "convert", path, "--output", "syft-json")
    names = {one["name"] for one in json.loads(converted.stdout)["artifacts"]}
    assert {name for name, _ in packages(tagged(release, name), "deb")} <= names


def test_cosign_downloads_it(release: Release) -> None:
    done = release.island.tool("cosign", "download", "sbom", release.image)
    assert json.loads(done.stdout) == tagged(release, "index")
