"""Images whose containers wait, with a simulated nvidia-smi."""

from __future__ import annotations

from pathlib import Path

from gpuid_operator.localcluster import LocalCluster, images


def import_smi_image(
    cluster: LocalCluster,
    folder: Path,
    name: str,
    xml: str,
    *,
    script: bytes = b"#!/bin/sh\nexec cat /smi.xml\n",
    other: dict[str, bytes] | None = None,
) -> None:
    """Build an image in a folder and import it on the real node. `script` is its nvidia-smi, whose
    output `xml` is the file /smi.xml; `other` has further files."""
    files, links = images.busybox()
    files |= {"/smi.xml": xml.encode(), "/bin/nvidia-smi": script, **(other or {})}
    tar = folder / "plugin.tar"
    command = ["/bin/sh", "-c", "trap exit TERM; while sleep 1; do :; done"]
    images.build_image(tar, name=name, files=files, links=links, command=command)
    cluster.import_image(tar)
