"""The files of a local cluster, all of them in one directory."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster.errors import LocalClusterError

MARKER: Final = "GPUID_LOCALCLUSTER"
"""Environment variable of every process of a cluster; its value is the cluster's directory."""


@dataclass(frozen=True)
class Layout:
    """The paths below a cluster's directory."""

    directory: Path

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def state(self) -> Path:
        return self.directory / "cluster.json"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def run(self) -> Path:
        """One file per process: its pid and when it started."""
        return self.directory / "run"

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def ca_file(self) -> Path:
        return self.pki / "ca.crt"

    @property
    def config(self) -> Path:
        """Configuration files of the servers, and the tokens of their users."""
        return self.directory / "config"

    @property
    def etcd(self) -> Path:
        return self.directory / "etcd"

    @property
    def nodes(self) -> Path:
        """One folder per simulated node: its hardware, as files."""
        return self.directory / "nodes"

    @property
    def bin(self) -> Path:
        """The first entry of PATH in the simulated containers."""
        return self.directory / "bin"

    @property
    def audit_log(self) -> Path:
        return self.directory / "audit.log"

    @property
    def real_node(self) -> Path:
        return self.directory / "real-node"

    @property
    def ours(self) -> bool:
        """Whether a cluster created this directory; only there files are removed."""
        return self._owner.exists()

    def claim(self) -> None:
        """Mark the directory as that of a cluster. It must be new, empty or marked already."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.ours and any(self.directory.iterdir()):
            raise LocalClusterError(
                f"failed to create a cluster: {self.directory} holds other files; use a new or "
                "empty directory"
            )
        self._owner.write_text("This directory belongs to a local cluster of gpuid-operator.\n")

    @property
    def _owner(self) -> Path:
        return self.directory / ".gpuid-localcluster"

    @property
    def marker(self) -> str:
        return f"{MARKER}={self.directory}"


@dataclass(frozen=True)
class State:
    """The state that later commands need about a running cluster."""

    host: str
    service_range: str
    apiserver_port: int
    etcd_port: int
    etcd_peer_port: int
    kwok_port: int
    simnode_port: int
    gpu: str
    node_object_bytes: int | None
    real_node: str | None
    controllers: bool = True
    """Whether controller manager, scheduler and KWOK run."""

    @property
    def server(self) -> str:
        return f"https://{self.host}:{self.apiserver_port}"

    def save(self, layout: Layout) -> None:
        write_atomically(layout.state, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, layout: Layout) -> State:
        return cls(**json.loads(layout.state.read_text()))


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file atomically: a reader sees the old content or the new."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.rename(path)
