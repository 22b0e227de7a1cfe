"""The base of the image: a folder with Python and its dependencies, assembled from Debian packages.

This module unpacks packages and never installs them: none of their scripts runs, so any machine can
build the base of any architecture. The module does what the scripts would have done: the merged
/usr, the bundle of certificates, the byte code.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from release.errors import ReleaseError

PYTHON: Final = "3.11"
"""The version of Debian 12."""
_MERGED: Final = ("bin", "sbin", "lib", "lib64")
_DROPPED: Final = (
    "etc/cron.daily",
    "etc/default",
    "etc/dpkg",
    "etc/profile.d",
    "etc/python3.11",
    "etc/skel",
    "etc/update-motd.d",
    "usr/lib/python3",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/sitecustomize.py",
    "usr/lib/python3.11/test",
    "usr/lib/valgrind",
    "usr/sbin",
    "usr/share/applications",
    "usr/share/apps",
    "usr/share/base-files",
    "usr/share/binfmts",
    "usr/share/bug",
    "usr/share/debhelper",
    "usr/share/gcc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/pixmaps",
    "usr/share/python3",
)
"""Folders that nothing in the image reads."""
_DROPPED_EXTENSIONS: Final = ("_curses", "_curses_panel", "_dbm", "_sqlite3", "nis", "readline")
"""Extension modules of Python whose libraries the image omits."""
_LOADERS: Final = {
    "amd64": "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "arm64": "usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
}
_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\n"
    "nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
}
_BUNDLE: Final = "etc/ssl/certs/ca-certificates.crt"


def assemble(packages: Sequence[Path], root: Path) -> None:
    """Unpack the files of the packages into the empty folder `root`, and complete the base."""
    status = []
    for path in packages:
        control, data = _members(path)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            _unpack(archive, root)
        with tarfile.open(fileobj=io.BytesIO(control)) as archive:
            status.append(_status(archive))
    for name in _MERGED:
        if (root / "usr" / name).is_dir():
            (root / name).symlink_to(f"usr/{name}")
    _write(root / "var/lib/dpkg/status", "\n".join(status))
    for name, text in _FILES.items():
        _write(root / name, text)
    authorities = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    _write(root / _BUNDLE, "".join(one.read_text(encoding="utf-8") for one in authorities))
    openssl = root / "usr/lib/ssl"
    openssl.mkdir()
    (openssl / "cert.pem").symlink_to(f"/{_BUNDLE}")


def _members(path: Path) -> tuple[bytes, bytes]:
    """The two archives in a .deb, which is an `ar` archive: control.tar and data.tar."""
    content = path.read_bytes()
    found = {}
    offset = len(b"!<arch>\n")
    while offset + 60 <= len(content):
        name = content[offset : offset + 16].decode().strip().rstrip("/")
        size = int(content[offset + 48 : offset + 58])
        found[name.split(".")[0]] = content[offset + 60 : offset + 60 + size]
        offset += 60 + size + size % 2
    return found["control"], found["data"]


def _status(control: tarfile.TarFile) -> str:
    """The package's entry in dpkg's list, which scanners read."""
    member = control.extractfile("./control")
    if member is None:
        raise ReleaseError("failed to read a Debian package: it has no control file")
    first, rest = member.read().decode().split("\n", 1)
    return f"{first}\nStatus: install ok installed\n{rest}"


def _unpack(data: tarfile.TarFile, root: Path) -> None:
    for member in data:
        place = _place(member.name)
        if place is None or not (member.issym() or member.islnk() or member.isreg()):
            if member.isdir() and place is not None:
                (root / place).mkdir(parents=True, exist_ok=True)
            continue
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.issym():
            target.symlink_to(member.linkname)
        elif member.islnk():
            if (source := _place(member.linkname)) is not None:
                os.link(root / source, target)
        elif file := data.extractfile(member):
            target.write_bytes(file.read())
            target.chmod(0o755 if member.mode & 0o100 else 0o644)


def _place(name: str) -> PurePosixPath | None:
    """The target of a member, relative to the root; None if the image omits it."""
    path = PurePosixPath(name.removeprefix("./"))
    if not path.parts or str(path) in _MERGED:
        return None
    if path.parts[0] in _MERGED:
        path = "usr" / path
    text = str(path)
    if any(text == folder or text.startswith(f"{folder}/") for folder in _DROPPED):
        return None
    parents = set(map(str, path.parents))
    if "usr/bin" in parents and not path.name.startswith("python3"):
        return None
    if "usr/share/doc" in parents and path.name != "copyright" and path.parent.name != "doc":
        return None
    if "gconv" in path.parts or (
        "lib-dynload" in path.parts and path.name.split(".")[0] in _DROPPED_EXTENSIONS
    ):
        return None
    return path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


class Interpreter:
    """The Python of a base with this machine's architecture, run from where it was unpacked.

    It compiles and compresses the content of images, so that the result depends on the locked
    packages and not on the Python of the person who releases.
    """

    def __init__(self, root: Path, architecture: str) -> None:
        loader = root / _LOADERS[architecture]
        self._command = [str(loader), "--library-path", str(loader.parent)]
        self._command += [str(root / f"usr/bin/python{PYTHON}"), "-s", "-B"]
        home = str(root / "usr")
        self._environment = {"PYTHONHOME": home, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}

    def run(
        self,
        *arguments: str | Path,
        stdin: bytes = b"",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> bytes:
        """The output of a Python program; raises ReleaseError with its error output if it fails."""
        done = subprocess.run(
            [*self._command, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env={**self._environment, **(environment or {})},
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace")[-2000:]
            raise ReleaseError(
                f"failed to run {' '.join(map(str, arguments))}: exit code {done.returncode}\n"
                f"{said}"
            )
        return done.stdout

    def compile_library(self, root: Path) -> None:
        """Write the byte code of a base's standard library, for any architecture."""
        library = root / f"usr/lib/python{PYTHON}"
        self.run(
            *("-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash"),
            *("-s", root, "-p", "/", library),
        )

    def gzip(self, content: bytes) -> bytes:
        """The compressed content; the same input gives the same output."""
        read, write = "sys.stdin.buffer.read()", "sys.stdout.buffer.write"
        program = f"import gzip, sys; {write}(gzip.compress({read}, 9, mtime=0))"
        return self.run("-c", program, stdin=content)
