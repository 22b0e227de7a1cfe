"""A cluster of the user, reached through a context of the kubeconfig."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from gpuid_operator.cli.demo.console import DemoError
from gpuid_operator.kube.client import APPLY_PATCH, MERGE_PATCH, KubeClient
from gpuid_operator.kube.errors import ApiError, KubeError, NotFound

_QPS: Final = 50.0
_BURST: Final = 100
_TABLE: Final = "application/json;as=Table;g=meta.k8s.io;v=v1,application/json"
_MANAGER: Final = {"fieldManager": "gpuid-operator-demo", "force": "true"}
_GAP: Final = "   "


class UserCluster:
    """Requests to the API server of a context, one at a time. As a context, it closes at its end.

    Every error is a DemoError that names the context.
    """

    def __init__(self, context: str) -> None:
        self.context = context
        self._runner = asyncio.Runner()
        self._client: KubeClient | None = None

    def __enter__(self) -> Self:
        try:
            self._client = self._run(
                KubeClient.connect(qps=_QPS, burst=_BURST, context=self.context)
            )
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._run(self._client.close())
        self._runner.close()

    @property
    def server(self) -> str:
        """The address of the API server."""
        credentials = self._run(self._connected.credentials())
        return str(credentials.server)

    def get(self, path: str, *, accept: str | None = None) -> Any:
        return self._request("GET", path, accept=accept)

    def find(self, path: str) -> Any:
        """As `get`; None if there is no such object or no such kind."""
        return self._tolerant("GET", path)

    def create(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._request("POST", path, body=body)

    def apply(self, collection: str, body: Mapping[str, Any]) -> Any:
        """Create or change an object, by server-side apply."""
        path = f"{collection}/{body['metadata']['name']}"
        return self._request(
            "PATCH", path, body=body, content_type=APPLY_PATCH, params=dict(_MANAGER)
        )

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._request("PATCH", path, body=body, content_type=MERGE_PATCH)

    def delete(self, path: str) -> None:
        """Delete an object that may be gone already."""
        self._tolerant("DELETE", path)

    def table(self, collection: str) -> str:
        """What `kubectl get` prints of a collection."""
        body = self.get(collection, accept=_TABLE)
        columns = [
            (number, column["name"].upper())
            for number, column in enumerate(body["columnDefinitions"])
            if not column.get("priority")
        ]
        rows = [[name for _, name in columns]]
        for row in body["rows"]:
            cells = [row["cells"][number] for number, _ in columns]
            rows.append(["<none>" if cell is None else str(cell) for cell in cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "".join(f"{line}\n" for line in lines)

    @property
    def _connected(self) -> KubeClient:
        assert self._client is not None  # noqa: S101 - only within the context
        return self._client

    def _tolerant(self, method: str, path: str) -> Any:
        try:
            return self._run(self._connected.request(method, path), tolerate_absent=True)
        except _AbsentError:
            return None

    def _request(self, method: str, path: str, **options: Any) -> Any:
        return self._run(self._connected.request(method, path, **options))

    def _run(self, coroutine: Any, *, tolerate_absent: bool = False) -> Any:
        try:
            return self._runner.run(coroutine)
        except KubeError as error:
            if tolerate_absent and isinstance(error, NotFound):
                raise _AbsentError from None
            raise DemoError(explain(self.context, error)) from None


class _AbsentError(Exception):
    """404."""


def explain(context: str, error: KubeError) -> str:
    """The error for the user of the demo."""
    if isinstance(error, ApiError) and error.status == 401:
        return (
            f"the API server of context {context} rejects the credentials of the kubeconfig (401);"
            f" log in again, and try `kubectl --context {context} get nodes`"
        )
    return f"context {context}: {error.message}"


def kubeconfig_with(context: str, folder: Path) -> str:
    """The value of KUBECONFIG with which the operator uses a context.

    The operator uses the current context. The last file that names one decides, so
    a file in `folder` that names nothing else goes behind those of the user, which stay as they
    are.
    """
    chosen = folder / "context.yaml"
    chosen.write_text(
        json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": context})
    )
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    # The operator runs in another folder.
    files = [str(Path(path).expanduser().absolute()) for path in paths.split(os.pathsep) if path]
    return os.pathsep.join([*files, str(chosen)])
