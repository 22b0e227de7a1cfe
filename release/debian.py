"""Debian packages of the base: their names, their lock file and their mirrors.

`python -m release.debian` writes the lock file from what apt's archives offer now; apt checks their
signatures. The lock file names no mirror: the first mirror that has a package provides it.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from release.errors import ReleaseError

SUITE: Final = "bookworm"
ARCHITECTURES: Final = ("amd64", "arm64")
PACKAGES: Final = (
    "base-files",
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libstdc++6",
    "libuuid1",
    "media-types",
    "netbase",
    "python3-minimal",
    "python3.11",
    "python3.11-minimal",
    "zlib1g",
)
"""The packages that Python needs to run the operator: no shell, no package manager."""
LOCK: Final = Path(__file__).parent / "debian.lock"

_TIMEOUT: Final = 60.0  # seconds without a response from a mirror
_HEADER: Final = """\
# The Debian packages of the base image. `make lock-base` writes this file.
# package version architecture sha256 path-in-the-archive
"""
_TAKEN: Final = "# taken "


@dataclass(frozen=True)
class Package:
    """A package at one version; `path` is relative to the root of an archive."""

    name: str
    version: str
    architecture: str
    sha256: str
    path: str

    @property
    def purl(self) -> str:
        """The package URL, as https://github.com/package-url/purl-spec defines it for Debian."""
        version = self.version.replace(":", "%3A").replace("+", "%2B")
        return (
            f"pkg:deb/debian/{self.name.replace('+', '%2B')}@{version}"
            f"?arch={self.architecture}&distro=debian-12"
        )


@dataclass(frozen=True)
class Lock:
    """The content of the lock file. `taken` is the newest date of the archives behind it."""

    taken: datetime
    packages: tuple[Package, ...]

    @classmethod
    def read(cls, path: Path = LOCK) -> Lock:
        lines = path.read_text(encoding="utf-8").splitlines()
        taken = next(line.removeprefix(_TAKEN) for line in lines if line.startswith(_TAKEN))
        packages = (Package(*line.split()) for line in lines if not line.startswith("#"))
        return cls(taken=datetime.fromisoformat(taken), packages=tuple(packages))

    def text(self) -> str:
        rows = [
            f"{one.name} {one.version} {one.architecture} {one.sha256} {one.path}"
            for one in self.packages
        ]
        return f"{_HEADER}{_TAKEN}{self.taken.isoformat()}\n" + "\n".join(rows) + "\n"

    def of(self, architecture: str) -> list[Package]:
        """The packages of an image, each in the architecture's own build or in the common build."""
        names = {one.name: one for one in self.packages if one.architecture == "all"}
        names |= {one.name: one for one in self.packages if one.architecture == architecture}
        return [names[name] for name in sorted(names)]


def mirrors() -> list[str]:
    """Roots of archives: those in DEBIAN_MIRROR (separated by spaces), else those of apt."""
    if given := os.environ.get("DEBIAN_MIRROR", "").split():
        return given
    command = ["apt-get", "indextargets", "--format", "$(SITE)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return sorted(set(done.stdout.split()))


def fetch(package: Package, cache: Path) -> Path:
    """The file of the package, from the cache or a mirror, with the content that is locked."""
    target = cache / f"{package.sha256}.deb"
    if target.exists() and _sha256(target.read_bytes()) == package.sha256:
        return target
    said = []
    for mirror in mirrors():
        url = f"{mirror.rstrip('/')}/{package.path}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:  # noqa: S310
                content: bytes = answer.read()
        except (urllib.error.URLError, OSError) as error:
            said.append(f"  {url}: {error}")
            continue
        if _sha256(content) == package.sha256:
            cache.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(f".{os.getpid()}")
            partial.write_bytes(content)
            partial.rename(target)
            return target
        said.append(f"  {url}: the content differs from the locked one")
    raise ReleaseError(
        f"failed to fetch {package.name} {package.version} ({package.architecture}):\n"
        + "\n".join(said or ["  there is no mirror: apt has no archives configured"])
        + "\nSet DEBIAN_MIRROR to roots of archives, separated by spaces; Debian's snapshot "
        "service keeps every version. Or lock the current versions with `make lock-base`."
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def resolve() -> Lock:
    """Lock what the archives in apt's configuration offer now."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        for name in ("lists/partial", "cache/archives/partial"):
            (state / name).mkdir(parents=True)
        options = _apt_options(state)
        subprocess.run(["apt-get", *options, "--quiet", "--quiet", "update"], check=True)
        packages = {
            package
            for architecture in ARCHITECTURES
            for package in _candidates(options, architecture)
        }
        taken = max(_dates((state / "lists").glob("*InRelease")))
    ordered = sorted(packages, key=lambda one: (one.name, one.architecture))
    return Lock(taken=taken, packages=tuple(ordered))


def _apt_options(state: Path) -> list[str]:
    """Options for apt with its configured archives, but without the state of this machine."""
    settings = {
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state / "cache",
        "APT::Architecture": ARCHITECTURES[0],
        "APT::Architectures::": ARCHITECTURES[1],
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _candidates(options: list[str], architecture: str) -> Iterable[Package]:
    names = [f"{name}:{architecture}" for name in PACKAGES]
    command = ["apt-cache", *options, "show", "--no-all-versions", *names]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for paragraph in shown.strip().split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and line[0] != " "
        )
        yield Package(
            name=fields["Package"],
            version=fields["Version"],
            architecture=fields["Architecture"],
            sha256=fields["SHA256"],
            path=fields["Filename"],
        )


def _dates(files: Iterable[Path]) -> Iterable[datetime]:
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("Date: "):
                yield email.utils.parsedate_to_datetime(line[6:]).astimezone(UTC)


def main() -> int:
    """Write the lock file."""
    LOCK.write_text(resolve().text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
