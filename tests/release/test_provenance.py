"""Provenance: what cosign shows of it, in both of its forms, and what it refuses."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from release.debian import Lock
from tests.release.published import Release, new_key

FORMS = {"bundle": "--new-bundle-format=true", "old": "--new-bundle-format=false"}
PROVENANCE = "https://slsa.dev/provenance/v1"


def verify(
    release: Release,
    image: str,
    *,
    form: str,
    key: Path | None = None,
    kind: str = "slsaprovenance1",
) -> subprocess.CompletedProcess[str]:
    key = key or release.public_key
    how = ("--key", key, "--insecure-ignore-tlog=true", FORMS[form], "--type", kind)
    return release.island.tool("cosign", "verify-attestation", *how, image, check=False)


def statements(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [json.loads(base64.b64decode(line["payload"])) for line in lines]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["index", "amd64", "arm64"])
def test_cosign_shows_builder_source_and_commit(release: Release, name: str, form: str) -> None:
    image = release.images[name]
    (statement,) = statements(verify(release, image, form=form))
    assert statement["predicateType"] == PROVENANCE
    (subject,) = statement["subject"]
    assert subject["digest"]["sha256"] == image.partition("@sha256:")[2]
    definition = statement["predicate"]["buildDefinition"]
    source, commit = release.about["source"], release.about["commit"]
    assert definition["externalParameters"]["source"] == f"git+{source}"
    assert definition["externalParameters"]["commit"] == commit
    assert definition["resolvedDependencies"][0]["digest"] == {"gitCommit": commit}
    assert statement["predicate"]["runDetails"]["builder"]["id"].startswith(source)


def test_its_materials_are_all_that_is_locked(release: Release) -> None:
    (statement,) = statements(verify(release, release.image, form="bundle"))
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"][1:]
    hashes = {one["digest"]["sha256"] for one in materials}
    debian = {one.sha256 for one in Lock.read(release.clone / "release/debian.lock").packages}
    assert debian < hashes
    locked = (release.clone / "requirements/runtime.txt").read_text()
    wheels = hashes - debian
    assert wheels < set(re.findall(r"sha256:([0-9a-f]{64})", locked))
    names = {re.split(r"[/@]", one["uri"])[1] for one in materials if "pkg:pypi" in one["uri"]}
    assert {"kopf", "lxml", "aiohttp"} < names


@pytest.mark.parametrize("form", FORMS)
def test_another_key_is_refused(release: Release, form: str, tmp_path: Path) -> None:
    other = new_key(release.island, tmp_path).with_suffix(".pub")
    done = verify(release, release.image, form=form, key=other)
    assert done.returncode != 0
    assert re.search("invalid signature|could not verify|Found: 0", done.stderr), done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_another_type_is_refused(release: Release, form: str) -> None:
    done = verify(release, release.image, form=form, kind="vuln")
    assert done.returncode != 0


@pytest.mark.parametrize("form", FORMS)
def test_an_image_without_it_is_refused(release: Release, form: str) -> None:
    bare = f"{release.registries[0]}/bare-{form}/gpuid-operator"
    release.island.tool("crane", "copy", release.image, f"{bare}:1")
    done = verify(release, f"{bare}@{release.about['image']}", form=form)
    assert done.returncode != 0
    assert re.search("no (matching )?(attestations|signatures)|not found", done.stderr.lower())
