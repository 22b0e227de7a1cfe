"""The Helm chart as an archive and as the OCI artifact for `helm install oci://…`.

Helm's own `package` and `push` write the current time into both, so no two results are identical.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import yaml

from release.oci import Document, Layout, iso, tar_of
from release.project import Project

_CONFIG: Final = "application/vnd.cncf.helm.config.v1+json"
_CONTENT: Final = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


def build(
    project: Project, layout: Layout, *, dist: Path, gzip: Callable[[bytes], bytes]
) -> Document:
    """Write the archive into `dist` and the artifact into `layout`; returns its descriptor."""
    folder = project.folder / "charts" / project.name
    about = yaml.safe_load((folder / "Chart.yaml").read_text())
    tar = tar_of(folder, prefix=f"{project.name}/", epoch=project.epoch)
    archive = gzip(tar)
    (dist / f"{project.name}-{project.version}.tgz").write_bytes(archive)
    return layout.manifest(
        config=layout.blob(json.dumps(about, sort_keys=True).encode(), _CONFIG),
        layers=[layout.blob(archive, _CONTENT)],
        annotations={
            "org.opencontainers.image.title": about["name"],
            "org.opencontainers.image.description": about["description"],
            "org.opencontainers.image.version": about["version"],
            "org.opencontainers.image.revision": project.commit,
            "org.opencontainers.image.created": iso(project.epoch),
            "org.opencontainers.image.source": project.source,
        },
    )
