"""pod_exec against a server that fails as real ones do.

The server is a fake: no kubelet can be made to close without a status, to split a character over
two frames, or to flood. What a real kubelet does is tested in tests/cluster and tests/node.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from asyncio import sslproto
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer
from yarl import URL

from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.credentials import Credentials, FreshCredentials
from gpuid_operator.kube.errors import (
    ApiUnreachable,
    CommandNotFound,
    ExecError,
    ExecFailed,
    ExecForbidden,
    ExecIncomplete,
    ExecPodGone,
    ExecTimedOut,
    ExecTooLarge,
    Unauthorized,
)
from gpuid_operator.kube.exec import ExecResult, pod_exec
from gpuid_operator.kube.in_flight import InFlight
from gpuid_operator.kube.tls import READ_BUFFER, limit_read_buffers

if TYPE_CHECKING:
    from tests.conftest import Certificates

Play = Callable[[web.WebSocketResponse], Awaitable[None]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SUCCESS = {"metadata": {}, "status": "Success"}


class Fixed:
    """Credentials that never change."""

    def __init__(self, server: str, **fields: Any) -> None:
        self.credentials = Credentials(
            server=server.rstrip("/"), authorization="Bearer sesame", **fields
        )

    async def load(self, *, rejected: bool) -> Credentials:
        return self.credentials


@asynccontextmanager
async def served(
    handler: Handler, *, tls: ssl.SSLContext | None = None, port: int | None = None
) -> AsyncIterator[str]:
    """The address of an API server that knows execs only."""
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/{namespace}/pods/{pod}/exec", handler)
    server = TestServer(app, scheme="https" if tls else "http", port=port)
    await server.start_server(ssl=tls)
    try:
        yield str(server.make_url(""))
    finally:
        await server.close()


def client_of(server: str, **fields: Any) -> KubeClient:
    return KubeClient(FreshCredentials(Fixed(server, **fields)), qps=1000, burst=1000)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[KubeClient]:
    async with served(handler) as server, client_of(server) as client:
        yield client


def playing(play: Play, *, protocols: tuple[str, ...] = ("v5.channel.k8s.io",)) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=protocols, compress=False)
        await socket.prepare(request)
        await play(socket)
        return socket

    return handler


def frames(*parts: tuple[int, bytes]) -> Play:
    async def play(socket: web.WebSocketResponse) -> None:
        for channel, data in parts:
            await socket.send_bytes(bytes([channel]) + data)
        await socket.close()

    return play


def status(body: dict[str, Any]) -> tuple[int, bytes]:
    return 3, json.dumps(body).encode()


def failure(message: str, *, reason: str = "InternalError", code: str = "") -> tuple[int, bytes]:
    causes = [{"reason": "ExitCode", "message": code}] if code else []
    return status(
        {
            "status": "Failure",
            "reason": reason,
            "message": message,
            "details": {"causes": causes},
        }
    )


async def run(client: KubeClient, *, timeout: float = 30, max_bytes: int = 100_000) -> ExecResult:
    return await pod_exec(
        client,
        namespace="gpu-operator",
        pod="plugin-1",
        container="plugin",
        command=["nvidia-smi", "-q", "-x"],
        timeout=timeout,
        max_bytes=max_bytes,
    )


async def error_of(handler: Handler, *, timeout: float = 30, max_bytes: int = 100_000) -> ExecError:
    async with serving(handler) as client:
        with pytest.raises(ExecError) as caught:
            await run(client, timeout=timeout, max_bytes=max_bytes)
    assert "`nvidia-smi -q -x` in gpu-operator/plugin-1, container plugin" in caught.value.message
    assert "sesame" not in caught.value.message
    return caught.value


async def test_output_of_both_streams_and_the_request_that_asked_for_it() -> None:
    seen: dict[str, Any] = {}
    play = playing(frames((1, b"<a"), (2, b"warn"), (1, b""), (1, b"/>"), status(SUCCESS)))

    async def handler(request: web.Request) -> web.StreamResponse:
        seen["query"] = list(request.query.items())
        seen["authorization"] = request.headers["Authorization"]
        seen["protocols"] = request.headers["Sec-WebSocket-Protocol"]
        seen["extensions"] = request.headers.get("Sec-WebSocket-Extensions")
        return await play(request)

    async with serving(handler) as client:
        assert await run(client) == ExecResult(b"<a/>", b"warn", 0)
    assert seen == {
        "query": [
            ("container", "plugin"),
            ("stdout", "true"),
            ("stderr", "true"),
            ("command", "nvidia-smi"),
            ("command", "-q"),
            ("command", "-x"),
        ],
        "authorization": "Bearer sesame",
        "protocols": "v5.channel.k8s.io,v4.channel.k8s.io",
        "extensions": None,
    }


async def test_a_character_split_over_two_frames_is_put_together() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    async with serving(playing(frames((1, first), (1, second), status(SUCCESS)))) as client:
        assert (await run(client)).stdout.decode() == "é"


async def test_the_older_protocol_will_do() -> None:
    handler = playing(frames((1, b"x"), status(SUCCESS)), protocols=("v4.channel.k8s.io",))
    async with serving(handler) as client:
        assert (await run(client)).stdout == b"x"


async def test_a_server_without_the_protocols_gives_no_result() -> None:
    error = await error_of(playing(frames((1, b"x"), status(SUCCESS)), protocols=()))
    assert type(error) is ExecFailed


async def test_an_exit_code_is_a_result() -> None:
    ended = failure("non-zero exit code", reason="NonZeroExitCode", code="14")
    async with serving(playing(frames((1, b"<ok/>"), (2, b"infoROM"), ended))) as client:
        assert await run(client) == ExecResult(b"<ok/>", b"infoROM", 14)


async def test_kwok_tells_the_exit_code_in_words() -> None:
    ended = failure("error executing command in container: cmd wait: sh -c x: exit status 3")
    async with serving(playing(frames((1, b"x"), ended))) as client:
        assert (await run(client)).exit_code == 3


@pytest.mark.parametrize("close", [True, False])
async def test_an_end_without_status_is_no_result(close: bool) -> None:
    async def play(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(b"\x01<log>")
        if close:
            await socket.close()
        else:
            transport = socket.get_extra_info("socket")
            transport.shutdown(2)

    error = await error_of(playing(play))
    assert type(error) is ExecIncomplete
    assert error.stdout == b"<log>"


async def test_a_status_that_is_not_json_is_no_result() -> None:
    error = await error_of(playing(frames((1, b"x"), (3, b"{"))))
    assert type(error) is ExecIncomplete


@pytest.mark.parametrize("size", [1, 70_000, 300_000])
async def test_a_flood_is_cut_off_however_it_is_framed(size: int) -> None:
    async def play(socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            await socket.send_bytes(b"\x01" + b"x" * size)
            await asyncio.sleep(0)

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await playing(play)(request)
        except ConnectionError:
            return web.Response()

    error = await error_of(handler, max_bytes=100)
    assert type(error) is ExecTooLarge
    assert len(error.stdout) <= 100


async def test_exactly_the_allowed_size_passes() -> None:
    async with serving(playing(frames((1, b"x" * 60), (2, b"y" * 40), status(SUCCESS)))) as client:
        result = await run(client, max_bytes=100)
    assert (len(result.stdout), len(result.stderr)) == (60, 40)


class Hanging:
    """A server that says something and then nothing; knows when its client is gone."""

    def __init__(self, *, before_the_handshake: bool = False) -> None:
        self.before = before_the_handshake
        self.reached = asyncio.Event()
        self.left = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",), autoclose=False)
        try:
            if not self.before:
                await socket.prepare(request)
                await socket.send_bytes(b"\x01half")
            self.reached.set()
            if self.before:
                await asyncio.Event().wait()
            while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED):
                pass
            return socket
        finally:
            self.left.set()


async def test_a_hung_command_times_out_and_its_socket_is_gone() -> None:
    server = Hanging()
    async with serving(server.handle) as client:
        with pytest.raises(ExecTimedOut) as caught:
            await run(client, timeout=0.3)
        assert caught.value.stdout == b"half"
        assert "0.3 s" in caught.value.message
        await server.left.wait()


async def test_a_handshake_that_hangs_times_out() -> None:
    async with serving(Hanging(before_the_handshake=True).handle) as client:
        with pytest.raises(ExecTimedOut):
            await run(client, timeout=0.3)


async def test_a_cancelled_exec_leaves_no_socket() -> None:
    server = Hanging()
    async with serving(server.handle) as client:
        task = asyncio.create_task(run(client))
        await server.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.left.wait()


NO_PROGRAM = [
    # containerd with runc, by name and by path
    "error executing command in container: failed to exec in container: failed to start exec"
    ' "e9a1": OCI runtime exec failed: exec failed: unable to start container process: exec:'
    ' "nvidia-smi": executable file not found in $PATH: unknown',
    "error executing command in container: failed to exec in container: failed to start exec"
    ' "e9a1": OCI runtime exec failed: exec failed: unable to start container process: exec:'
    ' "/usr/local/nvidia/bin/nvidia-smi": stat /usr/local/nvidia/bin/nvidia-smi: no such file or'
    " directory: unknown",
    # CRI-O with crun
    "error executing command in container: crun: executable file `nvidia-smi` not found in $PATH:"
    " No such file or directory: OCI runtime attempted to invoke a command that was not found",
    # Kata
    'error executing command in container: rpc status: code: INTERNAL message: "the file'
    ' /usr/bin/nvidia-smi was not found"',
    # KWOK
    'error executing command in container: cmd start: nvidia-smi -q -x: exec: "nvidia-smi":'
    " executable file not found in $PATH",
    "error executing command in container: cmd start: /x/nvidia-smi -q: fork/exec /x/nvidia-smi:"
    " no such file or directory",
]


@pytest.mark.parametrize("message", NO_PROGRAM)
async def test_a_missing_program_is_told_apart(message: str) -> None:
    error = await error_of(playing(frames(failure(message))))
    assert type(error) is CommandNotFound
    assert message in error.message


@pytest.mark.parametrize(("channel", "code"), [(2, "255"), (1, "126"), (2, "127"), (2, "1")])
async def test_a_missing_program_that_comes_as_an_exit_code(channel: int, code: str) -> None:
    said = (
        b"OCI runtime exec failed: exec failed: unable to start container process: exec:"
        b' "nvidia-smi": executable file not found in $PATH: unknown\r\n'
    )
    ended = failure("non-zero", reason="NonZeroExitCode", code=code)
    error = await error_of(playing(frames((channel, said), ended)))
    assert type(error) is CommandNotFound


async def test_a_program_that_a_shell_did_not_find_is_the_shells_answer() -> None:
    said = b"/bin/sh: 1: foo: not found\nstat /x: no such file or directory\n"
    ended = failure("non-zero", reason="NonZeroExitCode", code="127")
    async with serving(playing(frames((2, said), ended))) as client:
        assert await run(client) == ExecResult(b"", said, 127)


async def test_what_else_keeps_a_command_from_running_is_in_the_servers_words() -> None:
    error = await error_of(playing(frames((2, b"e"), failure("cgroup is frozen"))))
    assert type(error) is ExecFailed
    assert "cgroup is frozen" in error.message
    assert error.stderr == b"e"


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (403, 'pods "plugin-1" is forbidden: User "x" cannot create resource', ExecForbidden),
        (404, 'pods "plugin-1" not found', ExecPodGone),
        (400, "container plugin is not valid for pod plugin-1", ExecPodGone),
        (400, "cannot exec into a container in a completed pod; current phase is", ExecPodGone),
        (500, 'unable to upgrade connection: container not found ("plugin")', ExecPodGone),
        (500, "error dialing backend: dial tcp 10.0.0.1:10250: connection refused", ExecFailed),
        (502, "", ExecFailed),
    ],
)
async def test_a_refused_handshake_is_told_in_the_servers_words(
    code: int, message: str, kind: type[ExecError]
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "message": message}, status=code)

    error = await error_of(handler)
    assert type(error) is kind
    assert message in error.message


async def test_refused_credentials_concern_every_exec() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"reason": "Unauthorized"}, status=401)

    async with serving(handler) as client:
        with pytest.raises(Unauthorized):
            await run(client)


async def test_no_server_is_told_apart_from_a_failed_command() -> None:
    server = Fixed("http://127.0.0.1:1")
    async with KubeClient(FreshCredentials(server), qps=1, burst=1) as client:
        with pytest.raises(ApiUnreachable, match=r"127\.0\.0\.1:1"):
            await run(client)


async def test_an_exec_that_waits_for_its_command_keeps_no_other_from_being_opened() -> None:
    all_there = asyncio.Barrier(40)

    async def play(socket: web.WebSocketResponse) -> None:
        await all_there.wait()
        await frames((1, b"out"), status(SUCCESS))(socket)

    async with serving(playing(play)) as client:
        client.websockets.openings = InFlight(places=1, longest=3600)
        results = await asyncio.gather(*(run(client) for _ in range(all_there.parties)))
    assert results == [ExecResult(b"out", b"", 0)] * all_there.parties


async def test_few_execs_are_opened_at_once_and_their_wait_is_not_in_the_timeout() -> None:
    opening = most = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal opening, most
        opening += 1
        most = max(most, opening)
        await asyncio.sleep(0.1)
        opening -= 1
        return await playing(frames((1, b"out"), status(SUCCESS)))(request)

    async with serving(handler) as client:
        client.websockets.openings = InFlight(places=1, longest=3600)
        results = await asyncio.gather(*(run(client, timeout=2) for _ in range(30)))
    assert results == [ExecResult(b"out", b"", 0)] * 30
    assert most == 1


@pytest.fixture
def authority(certificates: Certificates, tmp_path: Path) -> str:
    """The file of the authority that issued the server's certificate."""
    file = tmp_path / "ca.pem"
    file.write_text(certificates.authority)
    return str(file)


def server_tls(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


async def test_a_tls_connection_has_a_small_read_buffer(
    certificates: Certificates, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This relies on asyncio's own: where it fails after an upgrade, adapt limit_read_buffers."""
    monkeypatch.setattr(sslproto.SSLProtocol, "max_size", sslproto.SSLProtocol.max_size)
    limit_read_buffers()
    output = bytes(range(256)) * 4096
    buffers = []

    async def handler(request: web.Request) -> web.StreamResponse:
        transport: Any = request.transport
        buffers.append(len(transport._ssl_protocol._ssl_buffer))
        return await playing(frames((1, output), status(SUCCESS)))(request)

    async with (
        served(handler, tls=server_tls(certificates)) as server,
        client_of(server, ca_path=authority, server_name="localhost") as client,
    ):
        assert (await run(client, max_bytes=2 * len(output))).stdout == output
    assert buffers == [READ_BUFFER]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_later_execs_resume_the_tls_session_of_the_first(
    certificates: Certificates, authority: str, version: ssl.TLSVersion
) -> None:
    resumed = []

    async def handler(request: web.Request) -> web.StreamResponse:
        resumed.append(request.get_extra_info("ssl_object").session_reused)
        return await playing(frames((1, b"out"), status(SUCCESS)))(request)

    def new_tls() -> ssl.SSLContext:
        context = server_tls(certificates)
        context.maximum_version = version
        return context

    async with served(handler, tls=new_tls()) as server:
        client = client_of(server, ca_path=authority, server_name="localhost")
        for _ in range(3):
            assert (await run(client)).stdout == b"out"
    assert resumed == [False, True, True]
    # A restarted API server, or another one behind the same address, does not know the session.
    async with client, served(handler, tls=new_tls(), port=URL(server).port):
        for _ in range(2):
            assert (await run(client)).stdout == b"out"
    assert resumed[3:] == [False, True]
