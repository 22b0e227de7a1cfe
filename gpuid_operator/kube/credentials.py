"""The address of the API server and the credentials for it.

Inside a cluster, this module reads the files of the service account itself, because importing
kubernetes_asyncio costs 38 MB of resident memory for its model classes. For a kubeconfig (with
token files, client certificates, exec plugins, OIDC) it imports kubernetes_asyncio on demand.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from gpuid_operator.kube.errors import NoCluster
from gpuid_operator.kube.tls import ResumingContext

RELOAD_AFTER: Final = 60.0
"""Seconds after which tokens and certificates are read again, as in client-go."""

_log = logging.getLogger(__name__)
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Credentials:
    """One server and one identity, valid until `RELOAD_AFTER` has passed."""

    server: str
    authorization: str | None = field(default=None, repr=False)
    """Value of the Authorization header: scheme and token."""
    ca_path: str | None = None
    """CA bundle in PEM; None for that of the system."""
    certificate_path: str | None = None
    private_key_path: str | None = None
    insecure: bool = False
    """Whether to skip verification of the server's certificate, as a kubeconfig can demand."""
    server_name: str | None = None
    """Name to verify the certificate against, if it differs from the host name."""
    proxy: str | None = field(default=None, repr=False)

    def ssl_context(self) -> ResumingContext:
        """A new TLS context. Raises NoCluster if a file is unusable."""
        context = ResumingContext()
        # As in Go: trust any certificate of the bundle, even if it is not an authority, and do not
        # require extensions that the authorities of many clusters lack (VERIFY_X509_STRICT).
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            if self.ca_path:
                context.load_verify_locations(self.ca_path)
            else:
                context.load_default_certs()
            if self.certificate_path:
                context.load_cert_chain(self.certificate_path, self.private_key_path)
        except (OSError, ValueError) as error:
            raise NoCluster(
                f"failed to load the TLS files for the API server {self.server} (CA {self.ca_path},"
                f" certificate {self.certificate_path}): {error}; replace them"
            ) from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def tls_files(self) -> tuple[object, ...]:
        """Identity of the TLS files; a new value means that certificates were rotated."""
        stats = []
        for path in (self.ca_path, self.certificate_path, self.private_key_path):
            if path:
                stat = os.stat(path)  # noqa: PTH116 - paths are strings from the kubeconfig
                stats.append((path, stat.st_mtime_ns, stat.st_size))
        return (*stats, self.insecure)


class CredentialSource(Protocol):
    """Loads the current credentials."""

    async def load(self, *, rejected: bool) -> Credentials:
        """Read the credentials; bypass caches if the server `rejected` the previous ones.

        Raises NoCluster.
        """
        ...


def find_source(
    *,
    kubeconfig: Path | None,
    context: str | None,
    environ: Mapping[str, str] = os.environ,
    service_account: Path = _SERVICE_ACCOUNT,
) -> CredentialSource:
    """`kubeconfig`, KUBECONFIG, the service account, or ~/.kube/config, in this order.

    Raises NoCluster if there is none.
    """
    paths = str(kubeconfig) if kubeconfig else environ.get("KUBECONFIG", "")
    if not paths and context is None and "KUBERNETES_SERVICE_HOST" in environ:
        return InCluster(environ=environ, folder=service_account)
    paths = paths or str(Path.home() / ".kube" / "config")
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise NoCluster(
            f"no cluster: no kubeconfig at {paths}, and this process does not run in a pod"
            " (KUBERNETES_SERVICE_HOST is not set); set KUBECONFIG to a kubeconfig"
        )
    return KubeConfig(paths=paths, context=context)


class InCluster:
    """The service account of the pod that this process runs in."""

    def __init__(self, *, environ: Mapping[str, str], folder: Path) -> None:
        host = environ["KUBERNETES_SERVICE_HOST"]
        port = environ.get("KUBERNETES_SERVICE_PORT", "443")
        self._server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._folder = folder

    async def load(self, *, rejected: bool) -> Credentials:
        file = self._folder / "token"
        try:
            token = file.read_text().strip()
        except OSError as error:
            raise NoCluster(
                f"failed to read the service account token {file}: {error};"
                " set automountServiceAccountToken: true for this pod"
            ) from error
        if not token:
            raise NoCluster(f"the service account token {file} is empty; delete the pod")
        return Credentials(
            server=self._server,
            authorization=f"Bearer {token}",
            ca_path=str(self._folder / "ca.crt"),
        )


class KubeConfig:
    """A context of one or more kubeconfig files."""

    def __init__(self, *, paths: str, context: str | None) -> None:
        self._paths = paths
        self._context = context
        self._loader: Any = None
        self._modified: list[int] = []

    async def load(self, *, rejected: bool) -> Credentials:
        from kubernetes_asyncio.client import Configuration
        from kubernetes_asyncio.config import ConfigException, kube_config

        configuration = Configuration()
        configuration.host = ""
        try:
            modified = await asyncio.to_thread(self._times)
            if self._loader is None or modified != self._modified:
                self._loader = await kube_config.load_kube_config(
                    config_file=self._paths,
                    context=self._context,
                    client_configuration=configuration,
                    persist_config=False,
                )
                self._modified = modified
            else:
                if rejected:
                    # The loader caches the token of an exec plugin, which the server rejected.
                    vars(self._loader).pop("exec_plugin_expiry", None)
                await self._loader.load_and_set(configuration)
        except yaml.YAMLError as error:
            # The text of the error quotes the file, which may contain a token.
            mark = getattr(error, "problem_mark", None)
            where = f" (line {mark.line + 1})" if mark else ""
            raise NoCluster(
                f"the kubeconfig {self._paths} is not valid YAML{where}; correct or replace it"
            ) from None
        except (ConfigException, OSError, LookupError, TypeError, ValueError, AssertionError) as e:
            raise NoCluster(
                f"failed to load the kubeconfig {self._paths}"
                f"{f', context {self._context}' if self._context else ''}:"
                f" {str(e)[:512] or type(e).__name__}; `kubectl config get-contexts` lists the"
                " contexts"
            ) from e
        if not configuration.host:
            raise NoCluster(
                f"the kubeconfig {self._paths} has no server for its context; choose one that has"
                " with `kubectl config use-context`"
            )
        return Credentials(
            server=configuration.host,
            authorization=configuration.api_key.get("BearerToken"),
            ca_path=configuration.ssl_ca_cert,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            insecure=not configuration.verify_ssl,
            server_name=configuration.tls_server_name,
            proxy=configuration.proxy,
        )

    def _times(self) -> list[int]:
        files = [Path(path).expanduser() for path in self._paths.split(os.pathsep) if path]
        return [file.stat().st_mtime_ns for file in files if file.is_file()]


class FreshCredentials:
    """Credentials and their TLS context, renewed when they expire or are rejected."""

    def __init__(
        self, source: CredentialSource, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._clock = clock
        self._lock = asyncio.Lock()
        self._reload_at = 0.0
        self._tls_files: tuple[object, ...] = ()
        self._credentials: Credentials | None = None
        self._tls: ResumingContext | bool = True
        self.headers: dict[str, str] = {}

    async def get(self) -> tuple[Credentials, ResumingContext | bool]:
        """The current credentials and their TLS context (True if the server does not use TLS).
        Raises NoCluster only if no credentials were ever loaded."""
        if self._credentials is None or self._clock() >= self._reload_at:
            await self._renew(rejected=None)
        assert self._credentials is not None  # noqa: S101 - _renew sets it or raises
        return self._credentials, self._tls

    async def renew_rejected(self, rejected: Credentials) -> bool:
        """Read the credentials again after a 401; whether they changed."""
        await self._renew(rejected=rejected)
        return self._credentials != rejected

    async def _renew(self, *, rejected: Credentials | None) -> None:
        async with self._lock:
            if rejected is None:
                if self._credentials is not None and self._clock() < self._reload_at:
                    return
            elif self._credentials != rejected:
                return
            try:
                fresh = await self._source.load(rejected=rejected is not None)
                await self._take(fresh)
            except NoCluster as error:
                if self._credentials is None:
                    raise
                # A file may be in the middle of its replacement; the old credentials are still
                # valid.
                _log.warning("failed to renew credentials: %s", error.message)
                self._reload_at = self._clock() + RELOAD_AFTER / 6
            else:
                self._reload_at = self._clock() + RELOAD_AFTER

    async def _take(self, fresh: Credentials) -> None:
        if fresh.server.startswith("https:"):
            try:
                files = fresh.tls_files()
            except OSError as error:
                raise NoCluster(f"failed to read a TLS file for {fresh.server}: {error}") from error
            if files != self._tls_files:
                self._tls = await asyncio.to_thread(fresh.ssl_context)
                self._tls_files = files
        self._credentials = fresh
        authorization = fresh.authorization
        self.headers = {"Authorization": authorization} if authorization else {}
