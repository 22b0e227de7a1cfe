"""The bill of materials, in SPDX 2.3: the parts of the image, from the files that the build used.

https://spdx.github.io/spdx-spec/v2.3/ . There is one document per architecture, and one for the
index, which contains all.
"""

from __future__ import annotations

import email
import hashlib
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from release.image import Image, Platform
from release.oci import Document, iso
from release.project import Project

_NOTHING: Final = "NOASSERTION"


def of_platform(project: Project, platform: Platform) -> Document:
    """Every Python and Debian package of one architecture's image."""
    return _document(project, platform.image["digest"], [platform])


def of_index(project: Project, image: Image) -> Document:
    """The same for all architectures, each package with the image that contains it."""
    return _document(project, image.index["digest"], image.platforms)


def _document(project: Project, digest: str, platforms: Sequence[Platform]) -> Document:
    whole = _image(project, digest)
    packages = {whole["SPDXID"]: whole}
    relations = [_relation("SPDXRef-DOCUMENT", "DESCRIBES", whole)]
    for platform in platforms:
        image = _image(project, platform.image["digest"], platform.architecture)
        packages[image["SPDXID"]] = image
        if image["SPDXID"] != whole["SPDXID"]:
            relations.append(_relation(image["SPDXID"], "VARIANT_OF", whole))
        for part in _parts(project, platform):
            packages[part["SPDXID"]] = part
            relations.append(_relation(image["SPDXID"], "CONTAINS", part))
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{project.name}-{project.version}",
        "documentNamespace": f"{project.source}/sbom/{digest}",
        "creationInfo": {
            "created": iso(project.epoch),
            "creators": [f"Organization: {project.authors}", f"Tool: {project.name}-release"],
        },
        "packages": list(packages.values()),
        "relationships": relations,
    }


def _parts(project: Project, platform: Platform) -> list[Document]:
    own = f"pkg:generic/{project.name}@{project.version}"
    own += f"?vcs_url=git%2B{project.source}%40{project.commit}"
    return [
        _package(project.name, project.version, own, license_=project.license),
        *map(_wheel, platform.wheels),
        *(
            _package(
                one.name,
                one.version,
                one.purl,
                sha256=one.sha256,
                architecture=one.architecture,
                supplier="Organization: Debian",
            )
            for one in platform.packages
        ),
    ]


def _wheel(path: Path) -> Document:
    with zipfile.ZipFile(path) as archive:
        name = next(one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(name))
    return _package(
        about["Name"],
        about["Version"],
        wheel_purl(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        architecture=path.stem.rsplit("-", 1)[-1],
        license_=about["License-Expression"],
    )


def wheel_purl(path: Path) -> str:
    """The package URL of a wheel."""
    name, version = path.name.split("-")[:2]
    return f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"


def _package(
    name: str,
    version: str,
    purl: str,
    *,
    sha256: str | None = None,
    architecture: str = "any",
    license_: str | None = None,
    supplier: str = _NOTHING,
) -> Document:
    package: Document = {
        "name": name,
        "SPDXID": _identifier("Package", name, version, architecture),
        "versionInfo": version,
        "supplier": supplier,
        "downloadLocation": _NOTHING,
        "filesAnalyzed": False,
        "licenseConcluded": _NOTHING,
        "licenseDeclared": license_ or _NOTHING,
        "copyrightText": _NOTHING,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }
        ],
    }
    if sha256:
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": sha256}]
    return package


def _image(project: Project, digest: str, architecture: str = "") -> Document:
    purl = f"pkg:oci/{project.name}@{digest.replace(':', '%3A')}"
    purl += f"?arch={architecture}" if architecture else ""
    image = _package(project.name, project.version, purl, license_=project.license)
    hexadecimal = digest.removeprefix("sha256:")
    return image | {
        "SPDXID": f"SPDXRef-Image-{hexadecimal}",
        "versionInfo": digest,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{"algorithm": "SHA256", "checksumValue": hexadecimal}],
    }


def _relation(element: str, kind: str, related: Document) -> Document:
    return {
        "spdxElementId": element,
        "relationshipType": kind,
        "relatedSpdxElement": related["SPDXID"],
    }


def _identifier(*parts: str) -> str:
    return "SPDXRef-" + "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", one) for one in parts)
