"""The programs of the local cluster: given, cached, or built once from the Go module `gomod`.

There are three builds. `servers` is one binary with Kubernetes, etcd and KWOK; its name at the call
selects the program (the first build takes twelve minutes). `apiserver` is a part of it, for a
cluster without controllers: etcd, the API server and kubectl. It is not built where there are the
servers. `tools` are our two small programs (seconds). KUBEBUILDER_ASSETS may contain the servers,
but not the tools.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster import toolchain
from gpuid_operator.localcluster.errors import BuildError

Progress = Callable[[str], None]

BASE: Final = ("etcd", "kube-apiserver")
CONTROLLERS: Final = ("kube-controller-manager", "kube-scheduler", "kwok")
SERVERS: Final = (*BASE, *CONTROLLERS)
_LINKS: Final = {
    "servers": (*SERVERS, "kubelet", "kubectl"),
    "apiserver": (*BASE, "kubectl"),
}
_MULTICALL: Final = "gpuid-localcluster"
_SOURCES: Final = {
    "servers": ("go.mod", "go.sum", "main.go"),
    "apiserver": ("go.mod", "go.sum", "apiserver/*.go"),
    "tools": ("go.mod", "go.sum", "simnode/*.go", "pause/*.go"),
}
_DURATIONS: Final = {"servers": "about 12 minutes", "apiserver": "about 10 minutes"}
_SAY_EVERY: Final = 10.0


@dataclass(frozen=True)
class Binaries:
    """Paths of the programs, by name."""

    paths: Mapping[str, Path]

    def __getitem__(self, name: str) -> Path:
        return self.paths[name]


def resolve(*, real_node: bool, progress: Progress, controllers: bool = True) -> Binaries:
    """Find the programs; build those that are in neither KUBEBUILDER_ASSETS nor the cache.

    Without `controllers` (and real node), the API server is enough, which takes less time.
    """
    wanted = [*(SERVERS if controllers else BASE), *(["kubelet"] if real_node else [])]
    given = os.environ.get("KUBEBUILDER_ASSETS")
    paths: dict[str, Path] = {}
    if given:
        paths = {n: Path(given) / n for n in (*wanted, "kubectl") if (Path(given) / n).exists()}
    if "kubectl" not in paths and (installed := shutil.which("kubectl")):
        paths["kubectl"] = Path(installed)
    with as_file(files("gpuid_operator.localcluster") / "gomod") as module:
        cache = _Cache(module, progress)
        tools = cache.folder("tools")
        paths |= {"simnode": tools / "simnode", "pause": tools / "pause"}
        if any(name not in paths for name in (*wanted, "kubectl")):
            enough = not controllers and not real_node and not cache.has("servers")
            build = "apiserver" if enough else "servers"
            servers = cache.folder(build)
            paths = {name: servers / name for name in _LINKS[build]} | paths
    return Binaries(paths)


class _Cache:
    """Builds of one state of the Go module by one toolchain for one architecture."""

    def __init__(self, module: Path, progress: Progress) -> None:
        self._module = module
        self._progress = progress
        self._go = toolchain.find()
        self._root = toolchain.cache_directory() / "localcluster"

    def has(self, build: str) -> bool:
        """Whether the build is there."""
        return self._path(build).is_dir()

    def folder(self, build: str) -> Path:
        """The folder of a build, which is built if it is missing."""
        folder = self._path(build)
        if folder.is_dir():
            return folder
        self._root.mkdir(parents=True, exist_ok=True)
        with _locked(self._root / "lock", self._progress):
            if not folder.is_dir():  # another process may have built it while this one waited
                self._build(build, folder)
        return folder

    def _path(self, build: str) -> Path:
        digest = hashlib.sha256(f"{self._go.version} {platform.machine()}".encode())
        for source in sorted(
            path for pattern in _SOURCES[build] for path in self._module.glob(pattern)
        ):
            digest.update(f"\0{source.relative_to(self._module)}\0".encode() + source.read_bytes())
        return self._root / f"{build}-{digest.hexdigest()[:16]}"

    def _build(self, build: str, folder: Path) -> None:
        if self._go.program is None:
            self._go = toolchain.install(self._progress)
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        flags = "-s -w"
        if build in _LINKS:
            self._progress(
                f"building the servers with Go {self._go.version}, once for this machine "
                f"({_DURATIONS[build]} on 2 slow cores)"
            )
            release = _kubernetes_release(self._module)
            major, minor, _ = release.removeprefix("v").split(".")
            version = "k8s.io/component-base/version.git"
            flags += f" -X {version}Version={release} -X {version}Major={major}"
            flags += f" -X {version}Minor={minor}"
            package = "." if build == "servers" else f"./{build}"
            self._compile([package, "-o", str(partial / _MULTICALL)], flags)
            for name in _LINKS[build]:
                (partial / name).symlink_to(_MULTICALL)
        else:
            self._compile(["./simnode", "./pause", "-o", f"{partial}/"], flags)
        partial.rename(folder)

    def _compile(self, arguments: list[str], flags: str) -> None:
        """Run `go build` and report progress: it prints each module and package."""
        *packages, option, output = arguments
        command = [str(self._go.program), "build", "-v", "-buildvcs=false", "-trimpath"]
        command += ["-ldflags", flags, option, output, *packages]
        began = time.monotonic()
        counts = {"downloading": 0, "compiled": 0}
        log = self._root / "build.log"
        process = subprocess.Popen(
            command,
            cwd=self._module,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        ended = threading.Event()

        def say() -> None:
            while not ended.wait(_SAY_EVERY):
                self._progress(
                    f"  {time.monotonic() - began:.0f} s: {counts['downloading']} modules fetched, "
                    f"{counts['compiled']} packages compiled"
                )

        speaker = threading.Thread(target=say, daemon=True)
        speaker.start()
        try:
            with log.open("w") as copy:
                for line in process.stderr or ():
                    copy.write(line)
                    counts["downloading" if line.startswith("go: downloading") else "compiled"] += 1
            code = process.wait()
        finally:
            ended.set()
            speaker.join()
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stderr:
                process.stderr.close()
        if code != 0:
            lines = [line for line in log.read_text().splitlines() if " " in line]
            raise BuildError(
                f"failed to run '{' '.join(command)}' in {self._module}: exit code {code}:\n"
                + "\n".join(lines[-15:])
                + f"\nThe whole output is in {log}. The build needs a reachable Go module proxy "
                "(GOPROXY) and about 4 GB of disk; run the command again when both are available."
            )
        self._progress(
            f"  built in {time.monotonic() - began:.0f} s ({counts['compiled']} packages)"
        )

    def _environment(self) -> dict[str, str]:
        environment = os.environ | {
            "GOFLAGS": "-mod=readonly",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
            "GOWORK": "off",
        }
        # The module cache of the user, if there is one, speeds up the build. Otherwise nothing is
        # written outside of our cache.
        if not (Path.home() / "go" / "pkg" / "mod").is_dir():
            environment.setdefault("GOMODCACHE", str(toolchain.cache_directory() / "go-modules"))
        return environment


def _kubernetes_release(module: Path) -> str:
    found = re.search(
        r"^\tk8s\.io/kubernetes (v\S+)$", (module / "go.mod").read_text(), re.MULTILINE
    )
    if found is None:
        raise BuildError(f"{module}/go.mod does not require k8s.io/kubernetes")
    return found[1]


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that builds the servers")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
