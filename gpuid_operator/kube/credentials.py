"""Where the API server is and how we say who we are.

Inside a cluster both are files of the service account, read here: importing kubernetes_asyncio
costs 38 MB of resident memory for its model classes. A kubeconfig (KUBECONFIG, token files, client
certificates, exec plugins, OIDC) is read by kubernetes_asyncio, imported only then.
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
"""Seconds after which tokens and certificates are read again; what client-go does."""

_log = logging.getLogger(__name__)
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Credentials:
    """One server and one identity, good until `RELOAD_AFTER` has passed."""

    server: str
    authorization: str | None = field(default=None, repr=False)
    """Value of the Authorization header: scheme and token."""
    ca_path: str | None = None
    """CA bundle in PEM; None: the system's."""
    certificate_path: str | None = None
    private_key_path: str | None = None
    insecure: bool = False
    """Do not verify the server's certificate (a kubeconfig may ask for it)."""
    server_name: str | None = None
    """Name to verify the certificate against, where it differs from the server's."""
    proxy: str | None = field(default=None, repr=False)

    def ssl_context(self) -> ResumingContext:
        """A new TLS context. Raises NoCluster when a file cannot be used."""
        context = ResumingContext()
        # As Go has it: any certificate of the bundle may be trusted, an authority's or not.
        # Extensions that many clusters' authorities lack (VERIFY_X509_STRICT) are not asked for.
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
                f"TLS files of the API server {self.server} cannot be used (CA {self.ca_path},"
                f" certificate {self.certificate_path}): {error}; mend them"
            ) from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def tls_files(self) -> tuple[object, ...]:
        """Changes when a TLS file is another, so that rotated certificates are taken up."""
        stats = []
        for path in (self.ca_path, self.certificate_path, self.private_key_path):
            if path:
                stat = os.stat(path)  # noqa: PTH116 - paths are strings from the kubeconfig
                stats.append((path, stat.st_mtime_ns, stat.st_size))
        return (*stats, self.insecure)


class CredentialSource(Protocol):
    """Gives the credentials of the moment."""

    async def load(self, *, rejected: bool) -> Credentials:
        """Read them anew; `rejected`: the server refused the last ones, so do not use a cache.

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
    """The given kubeconfig, else KUBECONFIG, else the service account, else ~/.kube/config.

    Raises NoCluster when there is none.
    """
    paths = str(kubeconfig) if kubeconfig else environ.get("KUBECONFIG", "")
    if not paths and context is None and "KUBERNETES_SERVICE_HOST" in environ:
        return InCluster(environ=environ, folder=service_account)
    paths = paths or str(Path.home() / ".kube" / "config")
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise NoCluster(
            f"no cluster: there is no kubeconfig at {paths}, and this process is not in a pod"
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
                f"the service account's token {file} cannot be read: {error};"
                " is automountServiceAccountToken off for this pod?"
            ) from error
        if not token:
            raise NoCluster(f"the service account's token {file} is empty")
        return Credentials(
            server=self._server,
            authorization=f"Bearer {token}",
            ca_path=str(self._folder / "ca.crt"),
        )


class KubeConfig:
    """One context of one or several kubeconfig files."""

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
                    # The loader keeps an exec plugin's token until it expires; this one is refused.
                    vars(self._loader).pop("exec_plugin_expiry", None)
                await self._loader.load_and_set(configuration)
        except yaml.YAMLError as error:
            # The error's own text quotes the file, which may hold a token.
            mark = getattr(error, "problem_mark", None)
            where = f" (line {mark.line + 1})" if mark else ""
            raise NoCluster(f"the kubeconfig {self._paths} is not valid YAML{where}") from None
        except (ConfigException, OSError, LookupError, TypeError, ValueError, AssertionError) as e:
            raise NoCluster(
                f"the kubeconfig {self._paths}"
                f"{f', context {self._context},' if self._context else ''} cannot be used:"
                f" {str(e)[:512] or type(e).__name__}"
            ) from e
        if not configuration.host:
            raise NoCluster(f"the kubeconfig {self._paths} names no server for its context")
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
    """Credentials and their TLS context, renewed as they age or are refused."""

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
        """The credentials of the moment, and the TLS context for them (True where the server has no
        TLS). Raises NoCluster only while there never were any."""
        if self._credentials is None or self._clock() >= self._reload_at:
            await self._renew(rejected=None)
        assert self._credentials is not None  # noqa: S101 - _renew sets it or raises
        return self._credentials, self._tls

    async def renew_rejected(self, refused: Credentials) -> bool:
        """After a 401: read them again. Whether they are other ones now."""
        await self._renew(rejected=refused)
        return self._credentials != refused

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
                # A file in the middle of its replacement: the old ones still have some time.
                _log.warning("credentials could not be renewed: %s", error.message)
                self._reload_at = self._clock() + RELOAD_AFTER / 6
            else:
                self._reload_at = self._clock() + RELOAD_AFTER

    async def _take(self, fresh: Credentials) -> None:
        if fresh.server.startswith("https:"):
            try:
                files = fresh.tls_files()
            except OSError as error:
                raise NoCluster(f"a TLS file of {fresh.server} cannot be read: {error}") from error
            if files != self._tls_files:
                self._tls = await asyncio.to_thread(fresh.ssl_context)
                self._tls_files = files
        self._credentials = fresh
        authorization = fresh.authorization
        self.headers = {"Authorization": authorization} if authorization else {}
