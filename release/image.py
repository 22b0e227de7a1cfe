"""The image for every architecture: a base of Debian packages, and the folder /app on top."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from release import base, debian
from release.base import Interpreter
from release.dockerfile import configuration
from release.errors import ReleaseError
from release.oci import CONFIG, LAYER, Document, Layout, diff_id, iso, tar_of
from release.project import Project

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_PREFIX: Final = "org.opencontainers.image."

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Platform:
    """The inputs of the image of one architecture, and its descriptor."""

    architecture: str
    packages: list[debian.Package]
    wheels: list[Path]
    image: Document


@dataclass(frozen=True)
class Image:
    """The index of all platforms, its base, its platforms, and the Python of the base."""

    index: Document
    base: Document
    platforms: list[Platform]
    interpreter: Interpreter


def build(
    project: Project, layout: Layout, *, cache: Path, work: Path, progress: Progress
) -> Image:
    """Build the image in `layout`; `cache` keeps downloads, `work` is a scratch folder."""
    lock = debian.Lock.read(project.folder / "release/debian.lock")
    packages = {arch: lock.of(arch) for arch in debian.ARCHITECTURES}
    wheels = {}
    for arch in debian.ARCHITECTURES:
        progress(f"fetching the locked packages for {arch}")
        files = [debian.fetch(package, cache / "debian") for package in packages[arch]]
        base.assemble(files, work / f"base-{arch}")
        wheels[arch] = _wheels(project, arch, folder=work / f"wheels-{arch}")
    interpreter = Interpreter(work / f"base-{_host()}", _host())

    taken = int(lock.taken.timestamp())
    base_notes = {
        "title": f"{project.name}-base",
        "description": "Python on Debian packages, without a shell",
        "version": f"{debian.SUITE}-{lock.taken:%Y%m%d}",
        "created": iso(taken),
    }
    base_layers = {}
    for arch in debian.ARCHITECTURES:
        progress(f"building the base for {arch}")
        interpreter.compile_library(work / f"base-{arch}")
        tar = tar_of(work / f"base-{arch}", prefix="", epoch=taken)
        base_layers[arch] = _Layer(layout.blob(interpreter.gzip(tar), LAYER), diff_id(tar), taken)
    base_index = _index(
        layout,
        {arch: _image(layout, arch, [base_layers[arch]], base_notes, {}) for arch in base_layers},
        base_notes,
    )

    notes = {
        "title": project.name,
        "description": project.description,
        "version": project.version,
        "revision": project.commit,
        "created": iso(project.epoch),
        "source": project.source,
        "authors": project.authors,
        "licenses": project.license,
        "base.name": f"{project.name}:{project.version}-base",
        "base.digest": base_index["digest"],
    }
    config = configuration((project.folder / "Dockerfile").read_text())
    platforms = []
    for arch in debian.ARCHITECTURES:
        progress(f"building the image for {arch}")
        folder = work / f"app-{arch}"
        source = project.folder
        interpreter.run(
            source / "release/app.py", "assemble", work / f"wheels-{arch}", source, folder
        )
        tar = tar_of(folder, prefix="app/", epoch=project.epoch)
        layer = _Layer(layout.blob(interpreter.gzip(tar), LAYER), diff_id(tar), project.epoch)
        image = _image(layout, arch, [base_layers[arch], layer], notes, config)
        platforms.append(Platform(arch, packages[arch], wheels[arch], image))
    index = _index(layout, {one.architecture: one.image for one in platforms}, notes)
    return Image(index=index, base=base_index, platforms=platforms, interpreter=interpreter)


@dataclass(frozen=True)
class _Layer:
    descriptor: Document
    diff_id: str
    epoch: int


def _host() -> str:
    """The architecture of this machine; its base provides the Python that runs."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        raise ReleaseError(
            "failed to build the image: its own Python compiles and compresses it, and needs Linux "
            f"on {' or '.join(_MACHINES)}; this is {sys.platform} on {platform.machine()}. Use a "
            "container or a virtual machine"
        )
    return _MACHINES[platform.machine()]


def _wheels(project: Project, arch: str, *, folder: Path) -> list[Path]:
    """The locked wheels, downloaded into `folder`."""
    requirements = project.folder / "requirements/runtime.txt"
    command = [sys.executable, str(project.folder / "release/app.py"), "fetch", arch]
    done = subprocess.run(
        [*command, str(requirements), str(folder), base.PYTHON],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ReleaseError(
            f"failed to fetch the wheels for {arch}; output of pip:\n{done.stderr[-2000:]}"
        )
    return sorted(folder.glob("*.whl"))


def _image(
    layout: Layout,
    arch: str,
    layers: list[_Layer],
    notes: Mapping[str, str],
    config: Mapping[str, object],
) -> Document:
    """An image of one architecture; its annotations are also labels."""
    annotations = {f"{_PREFIX}{key}": value for key, value in notes.items()}
    document: Document = {
        "architecture": arch,
        "os": "linux",
        "created": notes["created"],
        "config": {**config, "Labels": annotations},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        "history": [
            {"created": iso(one.epoch), "created_by": "make release", "comment": comment}
            for one, comment in zip(layers, ("Debian packages", "/app"), strict=False)
        ],
    }
    return layout.manifest(
        config=layout.json(document, CONFIG),
        layers=[one.descriptor for one in layers],
        annotations=annotations,
    )


def _index(layout: Layout, images: Mapping[str, Document], notes: Mapping[str, str]) -> Document:
    platforms = [
        image | {"platform": {"architecture": arch, "os": "linux"}}
        for arch, image in images.items()
    ]
    return layout.index(platforms, {f"{_PREFIX}{key}": value for key, value in notes.items()})
