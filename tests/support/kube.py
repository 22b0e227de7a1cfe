"""An API server in memory, behind the methods of KubeClient.

For unit tests of the engine: objects with resourceVersions, 404, 409 and 410, merge patch,
server-side apply of a status, pages, watches and execs. `tests/cluster/test_fake_kube.py` runs the
same cases against it and against a real API server, so that it tells the truth. It checks no schema
and no rights.
"""

from __future__ import annotations

import asyncio
import copy
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from functools import partial
from typing import Any, Final

import orjson

from gpuid_operator.api.meta import (
    API_VERSION,
    INVENTORY_PLURAL,
    MANAGER,
    POLICY_PLURAL,
    QUARANTINE_PLURAL,
)
from gpuid_operator.kube import errors
from gpuid_operator.kube.client import APPLY_PATCH, ONLY_METADATA, KubeClient
from tests.support.api_objects import clone, content, matches, merge, within
from tests.support.apply import ConflictingManagerError, Leaf, apply
from tests.support.clock import START
from tests.support.fake_exec import ExecHandler, FakeWebSockets
from tests.support.managed_fields import managed_fields

INVENTORIES: Final = f"/apis/{API_VERSION}/{INVENTORY_PLURAL}"
POLICIES: Final = f"/apis/{API_VERSION}/{POLICY_PLURAL}"
QUARANTINES: Final = f"/apis/{API_VERSION}/{QUARANTINE_PLURAL}"
NODES: Final = "/api/v1/nodes"
EVENTS: Final = "/api/v1/namespaces/default/events"
DRA: Final = "/apis/resource.k8s.io"

_COLLECTION: Final = re.compile(
    r"(?:/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?"
    r"/(?:nodes|pods|events|secrets|leases|gpuinventories|gpuinventorypolicies|gpuquarantines"
    r"|resourceslices)$"
)
_FIRST: Final = 100
"""The resourceVersion of the empty cluster."""
_PARTIAL: Final = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it reached the server."""

    method: str
    path: str
    params: Mapping[str, str]
    body: Any
    time: float
    """Seconds of the loop's clock."""
    accept: str | None = None
    """What the client accepts; None for all of an object."""


class StreamFault(Enum):
    """What happens to a watch instead of its next event."""

    SKIPPED = auto()
    """The event never comes."""
    CUT = auto()
    """The connection breaks off."""
    HALF = auto()
    """Half of the event comes."""
    GONE = auto()
    """The server ends the watch: its version is too old."""
    SILENT = auto()
    """Nothing comes any more."""


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests that fit `method` and, as a regular expression,
    `path`, after `skip` of them; an empty method fits all."""

    method: str
    path: str
    error: Exception | None
    """Raised instead of an answer; None: the answer is only held."""
    times: int
    after: bool
    """The server does what it was asked before the error."""
    until: asyncio.Event | None
    """The request waits for it first."""
    skip: int
    delay: float
    """Seconds by which the request reaches the server late; with `after`, the answer is late. With
    an error and without `after`, the client gives up after half of them, and the server does
    later what nobody waits for."""
    back: int
    """A list is answered from a version that is so many versions old."""
    meanwhile: Callable[[], object] | None
    """Called before the request reaches the server: what another client does."""
    lasts: float
    """Seconds from the first of them in which all requests meet the fault, whatever `times` is."""
    ends: float = math.inf
    met: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request has met the fault."""


class FakeKube(KubeClient):
    """An empty cluster. Objects are put by `put`, found in `objects`, by their paths."""

    def __init__(self) -> None:
        # Not that of KubeClient, which opens connections.
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.exec = ExecHandler()
        self.websockets = FakeWebSockets(self.exec)  # type: ignore[assignment]
        self.served = {INVENTORY_PLURAL, POLICY_PLURAL, QUARANTINE_PLURAL}
        """Plurals of our kinds that the server serves; the rest of their paths is 404."""
        self.dra_versions = {"v1"}
        """Versions of resource.k8s.io that the server serves."""
        self.tracks_fields = True
        """Whether Nodes have managedFields; an object from before them has none."""
        self.oldest = _FIRST
        """A watch from before this version is Gone."""
        self.broken_watches = 0
        """Watches that broke off."""
        self._version = _FIRST
        self._made = 0
        self._events: list[tuple[int, str, str, dict[str, Any]]] = []
        self._owners: dict[str, dict[Leaf, set[str]]] = {}
        self._snapshots: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self._faults: list[Fault] = []
        self.last_fault = -math.inf
        """When a request or a watch last met a fault, in seconds of the loop's clock."""
        self.stream_faults: dict[int, StreamFault] = {}
        """Faults of watches by the number of the event, counted from 0 over all watches."""
        self.streamed = 0
        """Events so far, of all watches."""
        self.listeners: list[Callable[[str, str, dict[str, Any]], None]] = []
        """Get type, path and object of each change, as a watch that Kopf has would."""
        self._news = asyncio.Event()
        self._cut = asyncio.Event()

    async def close(self) -> None:
        """Nothing is open."""

    # What a test does and sees

    def put(
        self, path: str, body: Mapping[str, Any], *, manager: str = "kubectl"
    ) -> dict[str, Any]:
        """Create an object, or replace one as a user would; what the server made of it."""
        known = self.objects.get(path)
        made = clone(dict(body))
        meta = made.setdefault("metadata", {})
        meta["name"] = path.rpartition("/")[2]
        if known is None:
            self._made += 1
            meta.setdefault("uid", f"uid-{self._made}")
            meta["generation"] = 1
            meta.setdefault("creationTimestamp", "2026-06-07T10:30:45Z")
        else:
            meta["uid"] = known["metadata"]["uid"]
            changed = made.get("spec") != known.get("spec")
            meta["generation"] = known["metadata"].get("generation", 1) + changed
            if content(made) == content(known):
                return clone(known)
        if path.startswith(NODES) and self.tracks_fields:
            now = self._now()
            meta["managedFields"] = managed_fields(known, made, manager=manager, now=now)
        return self._store(path, made, "MODIFIED" if known else "ADDED")

    def change(
        self,
        path: str,
        edit: Callable[[dict[str, Any]], object],
        *,
        manager: str = "kubectl",
    ) -> dict[str, Any]:
        """Let `edit` change an object in place, as a user or another client would."""
        body = clone(self.objects[path])
        edit(body)
        return self.put(path, body, manager=manager)

    def remove(self, path: str) -> None:
        """Delete an object."""
        body = self.objects.pop(path)
        self._owners.pop(path, None)
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self._tell("DELETED", path, body)

    def expire(self) -> None:
        """Compact: older versions are gone for watches, and for lists that are between pages."""
        self.oldest = self._version
        self._snapshots.clear()

    def break_watches(self) -> None:
        """End every watch without a word, as a server that is restarted does."""
        cut, self._cut = self._cut, asyncio.Event()
        cut.set()

    def fail(
        self,
        method: str,
        path: str,
        error: Exception | None = None,
        *,
        times: int = 1,
        after: bool = False,
        until: asyncio.Event | None = None,
        skip: int = 0,
        delay: float = 0.0,
        back: int = 0,
        meanwhile: Callable[[], object] | None = None,
        lasts: float = 0.0,
    ) -> Fault:
        """Lay a fault for the next requests that fit; see Fault."""
        fault = Fault(method, path, error, times, after, until, skip, delay, back, meanwhile, lasts)
        self._faults.append(fault)
        return fault

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests so far of this method whose path the regular expression finds."""
        return [one for one in self.requests if one.method == method and re.search(path, one.path)]

    @property
    def server_time(self) -> datetime:
        """A clock of its own, which goes right whatever the client's does."""
        return START + timedelta(seconds=asyncio.get_running_loop().time())

    @property
    def version(self) -> int:
        """The newest resourceVersion."""
        return self._version

    # What the client calls

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str | None = None,
        accept: str | None = None,
        timeout: float = 30.0,
        limited: bool = True,
    ) -> Any:
        query = dict(params or {})
        # Bytes, as on a connection: what a caller changes later was sent as it was.
        sent = None if body is None else orjson.loads(orjson.dumps(body))
        loop = asyncio.get_running_loop()
        self.requests.append(Request(method, path, query, sent, loop.time(), accept))
        await asyncio.sleep(0)
        fault = self._fault(method, path)
        if fault is not None:
            fault.met.set()
            if fault.until is not None:
                await fault.until.wait()
            if fault.meanwhile is not None:
                fault.meanwhile()
            if fault.error is not None and not fault.after:
                if fault.delay:
                    late = partial(self._do_late, method, path, query, sent, content_type)
                    loop.call_later(fault.delay, late)
                    await asyncio.sleep(fault.delay / 2)
                raise fault.error
            if not fault.after:
                await asyncio.sleep(fault.delay)
        if fault is not None and fault.back and _COLLECTION.fullmatch(path):
            return _accepted(self._list(path, query, back=fault.back), accept)
        answer = self._answer(method, path, query, sent, content_type)
        if fault is not None and fault.after:
            answer = clone(answer)  # as it was when the server sent it
            await asyncio.sleep(fault.delay)
        if fault is not None and fault.error is not None:
            raise fault.error
        return clone(_accepted(answer, accept))

    async def lines(
        self, path: str, *, params: Mapping[str, str], accept: str, silence: float
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        self.requests.append(Request("WATCH", path, dict(params), None, loop.time()))
        await asyncio.sleep(0)
        fault = self._fault("WATCH", path)
        if fault is not None:
            fault.met.set()
            if fault.until is not None:
                await fault.until.wait()
            if fault.error is not None:
                raise fault.error
        self._check_served(path)
        since = int(params["resourceVersion"])
        if since < self.oldest:
            raise _error(errors.Gone, 410, "Expired", f"too old resource version: {since}")
        cut, seen = self._cut, 0
        while True:
            for version, kind, where, body in self._events[seen:]:
                if version > since and where.rpartition("/")[0] == path and _fits(body, params):
                    event = {"type": kind, "object": _accepted(body, accept)}
                    match self._stream_fault():
                        case None:
                            yield orjson.dumps(event)
                        case StreamFault.CUT:
                            raise errors.ApiUnreachable(f"GET {path}: interrupted")
                        case StreamFault.HALF:
                            yield orjson.dumps(event)[:-9]
                        case StreamFault.GONE:
                            status = {"code": 410, "reason": "Expired", "message": "too old"}
                            yield orjson.dumps({"type": "ERROR", "object": status})
                        case StreamFault.SILENT:
                            await asyncio.sleep(silence)
                            raise errors.ApiUnreachable(f"GET {path}: no data")
            seen = len(self._events)
            if cut.is_set():
                self.broken_watches += 1
                raise errors.ApiUnreachable(f"GET {path}: the connection was interrupted")
            self._news.clear()
            waits = [asyncio.create_task(event.wait()) for event in (self._news, cut)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    # The server

    def _now(self) -> datetime:
        try:
            return self.server_time
        except RuntimeError:  # an object from before the test
            return START

    def _do_late(self, *request: Any) -> None:
        with suppress(errors.ApiError):  # nobody hears of it
            self._answer(*request)

    def _stream_fault(self) -> StreamFault | None:
        fault = self.stream_faults.pop(self.streamed, None)
        self.streamed += 1
        if fault is not None:
            self.last_fault = asyncio.get_running_loop().time()
        return fault

    def _fault(self, method: str, path: str) -> Fault | None:
        now = asyncio.get_running_loop().time()
        self._faults = [fault for fault in self._faults if now < fault.ends]
        for fault in self._faults:
            if fault.method in ("", method) and re.search(fault.path, path):
                if fault.skip:
                    fault.skip -= 1
                    continue
                self.last_fault = now
                if fault.lasts:
                    fault.ends = min(fault.ends, now + fault.lasts)
                    return fault
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
                return fault
        return None

    def _check_served(self, path: str) -> None:
        for plural in (INVENTORY_PLURAL, POLICY_PLURAL, QUARANTINE_PLURAL):
            if f"/{plural}" in path and plural not in self.served:
                raise _error(errors.NotFound, 404, "NotFound", "404 page not found")
        _, dra, version = path.partition(DRA)
        version = version.removeprefix("/").partition("/")[0]
        if dra and version not in (self.dra_versions | {""} if self.dra_versions else ()):
            raise _error(errors.NotFound, 404, "", "404 page not found")

    def _answer(
        self, method: str, path: str, query: dict[str, str], body: Any, content_type: str | None
    ) -> Any:
        self._check_served(path)
        if path == f"/apis/{API_VERSION}":
            if not self.served:
                raise _error(errors.NotFound, 404, "NotFound", "404 page not found")
            return {"resources": [{"name": name} for name in sorted(self.served)]}
        if path == DRA:
            return {"versions": [{"version": one} for one in sorted(self.dra_versions)]}
        if _COLLECTION.fullmatch(path):
            return self._list(path, query) if method == "GET" else self._create(path, body)
        target = path.removesuffix("/status")
        known = self.objects.get(target)
        if known is None:
            raise _error(errors.NotFound, 404, "NotFound", f"{path} not found")
        match method:
            case "GET":
                return known
            case "DELETE":
                return self._delete(target, known, body or {})
            case "PUT":
                self._same_version(known, body)
                return self.put(target, within(path, known, body), manager=MANAGER)
        self._same_version(known, body)
        if content_type == APPLY_PATCH:
            return self._apply(target, known, query, body)
        merged = merge(known, body)
        merged["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"]
        manager = query.get("fieldManager", MANAGER)
        return self.put(target, within(path, known, merged), manager=manager)

    def _objects_at(self, version: int) -> dict[str, dict[str, Any]]:
        """What there was at a version."""
        objects: dict[str, dict[str, Any]] = {}
        for at, kind, path, body in self._events:
            if at <= version:
                objects[path] = body
                if kind == "DELETED":
                    del objects[path]
        return objects

    def _list(self, path: str, query: dict[str, str], *, back: int = 0) -> dict[str, Any]:
        token = query.get("continue")
        if token is not None:
            if token not in self._snapshots:
                raise _error(errors.Gone, 410, "Expired", "the continue token is too old")
            version, left = self._snapshots.pop(token)
        else:
            version = max(self._version - back, _FIRST)
            objects = self._objects_at(version) if back else self.objects
            left = [
                clone(body)
                for where, body in sorted(objects.items())
                if where.rpartition("/")[0] == path and _fits(body, query)
            ]
        limit = int(query.get("limit", len(left) or 1))
        meta = {"resourceVersion": str(version), "continue": ""}
        if len(left) > limit:
            self._made += 1
            meta["continue"] = f"token-{self._made}"
            self._snapshots[meta["continue"]] = (version, left[limit:])
        return {"metadata": meta, "items": left[:limit]}

    def _create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        target = f"{path}/{body['metadata']['name']}"
        if target in self.objects:
            raise _error(errors.AlreadyExists, 409, "AlreadyExists", f"{target} already exists")
        body = dict(body)
        body.pop("status", None)  # a subresource: POST drops it
        return self.put(target, body, manager=MANAGER)

    def _delete(self, path: str, known: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        meta = known["metadata"]
        for name, wanted in (body.get("preconditions") or {}).items():
            if meta[name] != wanted:
                raise _error(errors.Conflict, 409, "Conflict", f"{name} is {meta[name]}")
        self.remove(path)
        return {"kind": "Status", "metadata": {}, "status": "Success"}

    def _same_version(self, known: dict[str, Any], body: dict[str, Any]) -> None:
        wanted = (body.get("metadata") or {}).get("resourceVersion")
        if wanted is not None and wanted != known["metadata"]["resourceVersion"]:
            raise _error(errors.Conflict, 409, "Conflict", "the object has been modified")

    def _apply(
        self, path: str, known: dict[str, Any], query: dict[str, str], body: dict[str, Any]
    ) -> dict[str, Any]:
        owners = copy.deepcopy(self._owners.get(path, {}))
        try:
            status = apply(
                known.get("status") or {},
                body.get("status") or {},
                manager=query["fieldManager"],
                owners=owners,
                force=query.get("force") == "true",
            )
        except ConflictingManagerError as error:
            raise _error(errors.Conflict, 409, "Conflict", str(error)) from error
        self._owners[path] = owners
        if status == (known.get("status") or {}):
            return known
        return self._store(path, {**clone(known), "status": status}, "MODIFIED")

    def _store(self, path: str, body: dict[str, Any], kind: str) -> dict[str, Any]:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.objects[path] = body
        self._tell(kind, path, body)
        return clone(body)

    def _tell(self, kind: str, path: str, body: dict[str, Any]) -> None:
        self._events.append((self._version, kind, path, clone(body)))
        self._news.set()
        for listener in self.listeners:
            listener(kind, path, clone(body))


def _accepted(answer: Any, accept: str | None) -> Any:
    """An answer as the client accepts it: with or without spec and status. The metadata of a list
    has a media type of its own."""
    if accept is None or "PartialObjectMetadata" not in accept or not isinstance(answer, dict):
        return answer
    if "items" in answer:
        if "PartialObjectMetadataList" not in accept:
            words = "you requested PartialObjectMetadata, but the requested object is a list"
            raise _error(errors.ApiError, 406, "NotAcceptable", words)
        items = [_accepted(body, ONLY_METADATA) for body in answer["items"]]
        return {**answer, "items": items or None}
    return {**_PARTIAL, "metadata": answer["metadata"]}


def _fits(body: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    """Whether the selectors of a query select an object; of fields, only `spec.driver`."""
    driver = query.get("fieldSelector", "").removeprefix("spec.driver=")
    return (not driver or body["spec"]["driver"] == driver) and matches(
        body["metadata"].get("labels") or {}, query.get("labelSelector", "")
    )


def _error(kind: type[errors.ApiError], status: int, reason: str, message: str) -> errors.ApiError:
    return kind(message, status=status, reason=reason, server_message=message)


def server_error(status: int = 503) -> errors.ServerError:
    """What a server that fails answers with."""
    words = "the server is currently unable to handle the request"
    return errors.ServerError(
        words, status=status, reason="ServiceUnavailable", server_message=words
    )


def rejected(kind: type[errors.ApiError], status: int, reason: str) -> errors.ApiError:
    """Any other answer with a status that is no success."""
    return _error(kind, status, reason, reason or "404 page not found")


def forbidden() -> errors.Forbidden:
    """What a server answers where a right is missing."""
    return errors.Forbidden(
        "forbidden", status=403, reason="Forbidden", server_message="is forbidden"
    )


def too_many_requests() -> errors.TooManyRequests:
    """What an overloaded server answers with."""
    return errors.TooManyRequests(
        "too many requests", status=429, reason="TooManyRequests", server_message="slow down"
    )


def unreachable() -> errors.ApiUnreachable:
    """What the client says when no answer came."""
    return errors.ApiUnreachable("no answer from the API server")
