"""The control plane: the real etcd, API server, controller manager and scheduler."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import yaml

from gpuid_operator.localcluster import processes
from gpuid_operator.localcluster.binaries import Binaries
from gpuid_operator.localcluster.client import ApiClient
from gpuid_operator.localcluster.errors import ApiError, ServerError
from gpuid_operator.localcluster.layout import Layout, State, write_atomically

ADMIN: Final = "admin"
_USERS: Final = (
    ADMIN,
    "system:kube-controller-manager",
    "system:kube-scheduler",
    "kwok",
    "simnode",
    "kubelet",
)
"""All of them are administrators; their names tell them apart in the audit log."""
_READY_WITHIN: Final = 60.0
_AUDITED: Final = [
    {"group": "gpuid.github.com"},
    {"group": "", "resources": ["nodes", "nodes/status", "pods/exec", "events", "secrets"]},
    {"group": "events.k8s.io", "resources": ["events"]},
    {"group": "coordination.k8s.io", "resources": ["leases"]},
]

_AUDITED_GROUP: Final = "system:serviceaccounts:gpuid"
"""The service accounts in the namespace of the operator: all their requests are audited."""


class ControlPlane:
    """Starts the servers of one cluster and waits until they answer."""

    def __init__(self, *, layout: Layout, state: State, binaries: Binaries) -> None:
        self._layout = layout
        self._state = state
        self._binaries = binaries

    def prepare(self) -> None:
        """Write the files that the servers need: keys, tokens, kubeconfigs, policies."""
        layout = self._layout
        for folder in (layout.pki, layout.config, layout.etcd):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        service_ip = self._state.service_range.removesuffix("0/24") + "1"
        made = subprocess.run(
            [self._binaries["simnode"], "pki", layout.pki, service_ip],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise ServerError(f"failed to write certificates to {layout.pki}: {made.stderr}")
        tokens = {user: secrets.token_hex(24) for user in _USERS}
        lines = [f'{token},{user},{user},"system:masters"\n' for user, token in tokens.items()]
        write_atomically(layout.config / "tokens.csv", "".join(lines).encode(), mode=0o600)
        for user, token in tokens.items():
            write_atomically(token_file(layout, user), token.encode(), mode=0o600)
            write_atomically(
                kubeconfig(layout, user), _kubeconfig(self._state, layout, user, token), mode=0o600
            )
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "Metadata", "resources": _AUDITED},
                {"level": "Metadata", "userGroups": [_AUDITED_GROUP]},
                {"level": "None"},
            ],
        }
        self._write_config("audit-policy.yaml", policy)
        scheduler = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {
                "kubeconfig": str(kubeconfig(layout, "system:kube-scheduler")),
                "qps": 1000,
                "burst": 2000,
            },
            "leaderElection": {"leaderElect": False},
        }
        self._write_config("scheduler.yaml", scheduler)

    def start(self) -> None:
        """Start everything; returns when the API server is ready."""
        self._start_etcd()
        self.start_apiserver()
        if self._state.controllers:
            self._start_controllers()

    def _start_etcd(self) -> None:
        client = f"http://127.0.0.1:{self._state.etcd_port}"
        peer = f"http://127.0.0.1:{self._state.etcd_peer_port}"
        processes.start(
            self._layout,
            "etcd",
            [
                self._binaries["etcd"],
                "--name=local",
                f"--data-dir={self._layout.etcd}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=local={peer}",
                # The data are deleted with the cluster, so writes do not wait for the disk.
                "--unsafe-no-fsync",
                "--quota-backend-bytes=8589934592",
            ],
        )

    def start_apiserver(self) -> None:
        """Start the API server and wait until it is ready; the port stays what it was."""
        layout, state = self._layout, self._state
        accounts = layout.pki / "service-accounts.key"
        processes.start(
            layout,
            "kube-apiserver",
            [
                self._binaries["kube-apiserver"],
                f"--etcd-servers=http://127.0.0.1:{state.etcd_port}",
                f"--bind-address={state.host}",
                f"--advertise-address={state.host}",
                f"--secure-port={state.apiserver_port}",
                f"--service-cluster-ip-range={state.service_range}",
                f"--cert-dir={layout.pki}",
                f"--tls-cert-file={layout.pki / 'apiserver.crt'}",
                f"--tls-private-key-file={layout.pki / 'apiserver.key'}",
                f"--token-auth-file={layout.config / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={accounts}",
                f"--service-account-signing-key-file={accounts}",
                f"--kubelet-client-certificate={layout.pki / 'kubelet-client.crt'}",
                f"--kubelet-client-key={layout.pki / 'kubelet-client.key'}",
                "--kubelet-preferred-address-types=InternalIP",
                "--allow-privileged",
                "--max-requests-inflight=3000",
                "--max-mutating-requests-inflight=1000",
                "--event-ttl=24h",
                f"--audit-policy-file={layout.config / 'audit-policy.yaml'}",
                f"--audit-log-path={layout.audit_log}",
                # One file, without rotation, so that a count of writes reads all of it.
                "--audit-log-maxsize=10240",
            ],
        )
        self._wait_ready()

    def stop_apiserver(self) -> None:
        """End the API server alone and at once, as a crash would; etcd and the others stay."""
        processes.stop(self._layout, ["kube-apiserver"], grace=0)

    def _start_controllers(self) -> None:
        layout = self._layout
        processes.start(
            layout,
            "kube-controller-manager",
            [
                self._binaries["kube-controller-manager"],
                f"--kubeconfig={kubeconfig(layout, 'system:kube-controller-manager')}",
                "--leader-elect=false",
                "--secure-port=0",
                f"--service-account-private-key-file={layout.pki / 'service-accounts.key'}",
                f"--root-ca-file={layout.ca_file}",
                "--kube-api-qps=1000",
                "--kube-api-burst=2000",
                # Simulated nodes send no heartbeats, so that an idle cluster makes no writes.
                "--node-monitor-grace-period=87600h",
                f"--flex-volume-plugin-dir={layout.config / 'flexvolume'}",
            ],
        )
        processes.start(
            layout,
            "kube-scheduler",
            [
                self._binaries["kube-scheduler"],
                f"--config={layout.config / 'scheduler.yaml'}",
                "--secure-port=0",
            ],
        )

    def _wait_ready(self) -> None:
        client = client_for(self._layout, self._state)
        began = time.monotonic()
        answer = "nothing"
        while time.monotonic() < began + _READY_WITHIN:
            for name in ("etcd", "kube-apiserver"):
                if not processes.is_running(self._layout, name):
                    raise ServerError(
                        f"failed to start {name}: it ended. {log_tail(self._layout, name)}"
                    )
            try:
                client.get("/readyz")
            except (ApiError, ServerError) as error:
                answer = str(error)
            else:
                return
            time.sleep(0.1)
        raise ServerError(
            f"failed to start the API server at {self._state.server}: not ready after "
            f"{_READY_WITHIN:.0f} s; last response: {answer}. "
            f"{log_tail(self._layout, 'kube-apiserver')}"
        )

    def _write_config(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self._layout.config / name, yaml.safe_dump(content).encode())


def client_for(layout: Layout, state: State, user: str = ADMIN) -> ApiClient:
    return ApiClient(
        server=state.server, token=token_file(layout, user).read_text(), ca_file=layout.ca_file
    )


def token_file(layout: Layout, user: str) -> Path:
    return layout.config / f"{user.replace(':', '-')}.token"


def kubeconfig(layout: Layout, user: str) -> Path:
    """The path of the kubeconfig of a user; people use that of the administrator."""
    if user == ADMIN:
        return layout.kubeconfig
    return layout.config / f"{user.replace(':', '-')}.kubeconfig"


def log_tail(layout: Layout, name: str, lines: int = 12) -> str:
    """The end of the log of a server and its path, for an error message."""
    path = layout.logs / f"{name}.log"
    try:
        text = path.read_text(errors="replace").splitlines()[-lines:]
    except OSError as error:
        return f"Failed to read its log {path}: {error}"
    return "\n".join([f"The end of its log, {path}:", *(f"  {line[:300]}" for line in text)])


def _kubeconfig(state: State, layout: Layout, user: str, token: str) -> bytes:
    name = "gpuid-local"
    # JSON is valid YAML.
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [
                {
                    "name": name,
                    "cluster": {
                        "server": state.server,
                        "certificate-authority": str(layout.ca_file),
                    },
                }
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        },
        indent=1,
    ).encode()
