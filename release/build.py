"""Builds everything in a release that depends on the commit alone, in one folder: `make dist`."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

import hatchling

from release import chart, image, krew, manifests, olm, provenance, sbom
from release.base import Interpreter
from release.image import Progress
from release.oci import EMPTY, Document, Layout, iso
from release.project import Project

SPDX: Final = "application/spdx+json"
_SPDX_LAYER: Final = "text/spdx+json"  # the media type that ko and cosign use


def build(
    dist: Path,
    *,
    source: str | None,
    builder: str | None,
    registry: str | None,
    cache: Path,
    progress: Progress,
) -> Document:
    """Fill the folder `dist`; returns its content, as in its file release.json.

    `registry` (`host/path`) is where the manifests say that the image is, if anywhere.

    - `oci/`: the image, its base, the bills of materials, the chart and the bundle for OLM, in the
      form for a registry
    - `sbom-*.spdx.json`, `provenance.json`: the attested statements about the image
    - the chart, the wheel, the plugin for krew, `install.yaml`, archives of deployment/ and of
      the bundle
    """
    started = int(time.time())
    dist.mkdir(parents=True, exist_ok=True)
    layout = Layout(dist / "oci")
    with tempfile.TemporaryDirectory(prefix="gpuid-release-") as scratch:
        work = Path(scratch)
        project = Project.export(work / "source", source=source)
        progress(f"{project.name} {project.version}, commit {project.commit}")
        made = image.build(project, layout, cache=cache, work=work, progress=progress)
        layout.name(made.base, f"{project.version}-base")
        layout.name(made.index, project.version)
        subjects = {"index": (made.index, sbom.of_index(project, made))}
        for platform in made.platforms:
            subjects[platform.architecture] = (platform.image, sbom.of_platform(project, platform))
        for name, (subject, document) in subjects.items():
            text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode()
            (dist / f"sbom-{name}.spdx.json").write_bytes(text)
            _attach(layout, subject, text, project)
        artifact = chart.build(project, layout, dist=dist, gzip=made.interpreter.gzip)
        layout.name(artifact, f"{project.version}-chart")
        progress("building the wheel")
        wheel = _wheel(project, dist, made.interpreter)
        progress("writing the manifests")
        reference = f"{project.name}@{made.index['digest']}"
        if registry:
            reference = f"{registry.rstrip('/')}/{reference}"
        install = manifests.install(project.folder, reference)
        (dist / manifests.INSTALL).write_text(install)
        bundle = olm.bundle(project, install, reference)
        gzip = made.interpreter.gzip
        files = [
            f"{project.name}-{project.version}.tgz",
            wheel,
            manifests.INSTALL,
            manifests.archive(project, gzip, dist),
            olm.build(project, layout, bundle, dist=dist, gzip=gzip),
            *krew.build(project, dist / wheel, dist=dist, gzip=gzip),
        ]
        statement = provenance.predicate(
            project,
            made,
            builder=builder
            or f"{project.source}/blob/v{project.version}/docs/verify.md#the-builder",
            invocation=f"urn:uuid:{uuid.uuid4()}",
            started=started,
            finished=int(time.time()),
        )
        (dist / "provenance.json").write_text(json.dumps(statement, indent=1))
    release: Document = {
        "name": project.name,
        "version": project.version,
        "commit": project.commit,
        "source": project.source,
        "image": made.index["digest"],
        "platforms": {one.architecture: one.image["digest"] for one in made.platforms},
        "base": made.base["digest"],
        "wheel": wheel,
        "files": {name: _sha256(dist / name) for name in sorted(files)},
    }
    (dist / "release.json").write_text(json.dumps(release, indent=1) + "\n")
    return release


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _attach(layout: Layout, subject: Document, text: bytes, project: Project) -> None:
    """Attach a bill of materials as a referrer of its image, under the same tag as ko."""
    manifest = layout.manifest(
        config=layout.blob(b"{}", EMPTY),
        layers=[layout.blob(text, _SPDX_LAYER)],
        annotations={"org.opencontainers.image.created": iso(project.epoch)},
        artifact_type=SPDX,
        subject=subject,
    )
    layout.name(manifest, f"{subject['digest'].replace(':', '-')}.sbom")


def _wheel(project: Project, dist: Path, interpreter: Interpreter) -> str:
    """Build the wheel of the package with this environment's hatchling; returns its file name."""
    with tempfile.TemporaryDirectory() as folder:
        interpreter.run(
            *("-m", "hatchling", "build", "--target", "wheel", "--directory", folder),
            cwd=project.folder,
            environment={
                "PYTHONPATH": str(Path(hatchling.__file__).parent.parent),
                "SOURCE_DATE_EPOCH": str(project.epoch),
            },
        )
        (wheel,) = Path(folder).glob("*.whl")
        shutil.move(wheel, dist / wheel.name)
        return wheel.name
