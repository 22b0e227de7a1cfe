"""The predicate of SLSA provenance v1.0: how the image was built.

https://slsa.dev/spec/v1.0/provenance . A release on your own machine is SLSA Build level 1: the
provenance exists and is complete, and only the key proves it.
"""

from __future__ import annotations

import hashlib

from release.image import Image
from release.oci import Document, iso
from release.project import Project
from release.sbom import wheel_purl


def predicate(
    project: Project, image: Image, *, builder: str, invocation: str, started: int, finished: int
) -> Document:
    """The predicate; times in seconds since 1970. `builder` names the party to trust."""
    return {
        "buildDefinition": {
            "buildType": f"{project.source}/blob/v{project.version}/docs/verify.md#the-build",
            "externalParameters": {
                "source": f"git+{project.source}",
                "commit": project.commit,
                "version": project.version,
                "platforms": [f"linux/{one.architecture}" for one in image.platforms],
            },
            "internalParameters": {"SOURCE_DATE_EPOCH": project.epoch},
            "resolvedDependencies": [
                {"uri": f"git+{project.source}", "digest": {"gitCommit": project.commit}},
                *_materials(image),
            ],
        },
        "runDetails": {
            "builder": {"id": builder},
            "metadata": {
                "invocationId": invocation,
                "startedOn": iso(started),
                "finishedOn": iso(finished),
            },
        },
    }


def _materials(image: Image) -> list[Document]:
    """Every package that went into an image, by its purl and hash."""
    found: dict[tuple[str, str], Document] = {}
    for platform in image.platforms:
        pairs = [(one.purl, one.sha256) for one in platform.packages]
        pairs += [
            (
                f"{wheel_purl(path)}?file_name={path.name}",
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in platform.wheels
        ]
        for purl, sha256 in pairs:
            found[purl, sha256] = {"uri": purl, "digest": {"sha256": sha256}}
    return [found[key] for key in sorted(found)]
