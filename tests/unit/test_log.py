"""The log: every line of a process is one JSON object on stdout, also those of libraries."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuid_operator.telemetry import redact
from gpuid_operator.telemetry.log import (
    Format,
    Level,
    SecretsInUse,
    configure,
    get_logger,
    register_secret,
    write_records,
)

RECORD = {"node": "gpu-1", "source": "gpu-operator/pod", "time": "2026-06-07T10:30:45Z"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


class LogFile:
    """A file that the log writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def getvalue(self) -> str:
        return self.path.read_text()


Configured = Callable[[Level, Format], LogFile]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Configured]:
    """Configures the log to write into a file; afterwards this process is as it was."""
    opened: list[LogFile] = []
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    for module, name in (
        (sys, "stdout"),
        (sys, "stderr"),
        (sys, "excepthook"),
        (sys, "unraisablehook"),
        (threading, "excepthook"),
        (warnings, "showwarning"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(redact, "_secrets", redact._Secrets())

    def start(level: Level, form: Format) -> LogFile:
        opened.append(LogFile(tmp_path / f"{len(opened)}.log"))
        configure(level, form, opened[-1].descriptor)
        return opened[-1]

    yield start
    configure("info", "json")
    for stream in opened:
        os.close(stream.descriptor)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: LogFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def only(stream: LogFile) -> dict[str, Any]:
    [line] = lines(stream)
    return line


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, with the log configured."""
    program = "from gpuid_operator.telemetry.log import *\nconfigure('info', 'json')\n"
    return subprocess.run(
        [sys.executable, "-c", program + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environ},
    )


def test_a_line_has_gpuids_shape(configured: Configured) -> None:
    stream = configured("info", "json")
    before = time.time_ns()
    get_logger(__name__).info("command executed successfully", node="gpu-1", stdout="ok\n")
    line = only(stream)
    assert list(line) == ["time", "level", "source", "msg", "service", "node", "stdout"]
    assert TIME.fullmatch(line["time"])
    seconds = datetime.fromisoformat(line["time"][:19] + "+00:00").timestamp()
    assert before // 1_000_000_000 <= seconds <= time.time()
    assert line["level"] == "INFO"
    assert line["msg"] == "command executed successfully"
    assert line["service"] == "gpuid"
    assert line["node"] == "gpu-1"
    assert line["stdout"] == "ok\n"
    assert line["source"]["function"].endswith("test_log.test_a_line_has_gpuids_shape")
    assert line["source"]["file"] == "tests/unit/test_log.py"
    assert line["source"]["line"] > 0


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["DEBUG", "INFO", "WARN", "ERROR"]),
        ("info", ["INFO", "WARN", "ERROR"]),
        ("warn", ["WARN", "ERROR"]),
        ("error", ["ERROR"]),
    ],
)
def test_levels_have_slogs_names(configured: Configured, level: Level, expected: list[str]) -> None:
    stream = configured(level, "json")
    log = get_logger(__name__)
    log.debug("a line")
    log.info("a line")
    log.warning("a line")
    log.error("a line")
    assert [line["level"] for line in lines(stream)] == expected


def test_an_exception_is_two_fields_of_one_line(configured: Configured) -> None:
    stream = configured("info", "json")
    try:
        raise ValueError("no such GPU")
    except ValueError as error:
        get_logger(__name__).exception("read failed", node="gpu-1")
        get_logger(__name__).warning("read failed", error=error)
    first, second = lines(stream)
    assert first["level"] == "ERROR"
    assert first["error"] == second["error"] == "ValueError: no such GPU"
    assert first["stack"].startswith("Traceback (most recent call last):\n")
    assert first["stack"].endswith("ValueError: no such GPU")
    assert "stack" not in second


def test_values_that_json_has_no_type_for_become_text(configured: Configured) -> None:
    stream = configured("info", "json")
    get_logger(__name__).info(
        "types", path=Path("/proc/x"), nothing=None, nested={"list": [1, 2.5, True]}
    )
    line = only(stream)
    assert line["path"] == "/proc/x"
    assert line["nothing"] is None
    assert line["nested"] == {"list": [1, 2.5, True]}


@pytest.mark.parametrize("form", ["json", "text"])
def test_bytes_of_the_environment_that_are_not_utf8_become_question_marks(
    configured: Configured, form: Format
) -> None:
    stream = configured("info", form)
    value = os.fsdecode(b"gpuid\xff")
    get_logger(__name__).error(f"POD_NAME is {value}", error=ValueError(value), url="https://a@b")
    written = stream.getvalue()
    assert "POD_NAME is gpuid?" in written
    assert "ValueError: gpuid?" in written
    assert "https://***@b" in written


def test_a_format_string_that_does_not_fit_its_arguments_is_shown_with_them(
    configured: Configured,
) -> None:
    stream = configured("info", "json")
    logging.getLogger("library").warning("%d GPUs", "not a number")
    logging.getLogger("library").warning("%s of %s", 1)
    assert [line["msg"] for line in lines(stream)] == [
        "%d GPUs ('not a number',)",
        "%s of %s (1,)",
    ]


OWN_NAMES = {"time", "level", "source", "msg", "service"}
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    fields=st.dictionaries(st.text().filter(lambda name: name not in OWN_NAMES), JSON_LIKE),
    message=st.text(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@pytest.mark.parametrize("form", ["json", "text"])
def test_any_field_makes_one_line(
    configured: Configured, form: Format, fields: dict[str, Any], message: str
) -> None:
    stream = configured("info", form)
    get_logger(__name__).info(message, **fields)
    written = stream.getvalue()
    assert written.endswith("\n")
    if form == "json":
        assert written.count("\n") == 1
        assert set(json.loads(written)) >= OWN_NAMES


def test_a_librarys_line_names_its_logger(configured: Configured) -> None:
    stream = configured("info", "json")
    logging.getLogger("aiohttp.client").warning("%s closed", "session")
    line = only(stream)
    assert line["logger"] == "aiohttp.client"
    assert line["msg"] == "session closed"


def test_a_warning_names_the_code_that_it_is_about(configured: Configured) -> None:
    stream = configured("info", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure("info", "json", stream.descriptor)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    line = only(stream)
    assert (line["level"], line["msg"], line["category"]) == ("WARN", "old", "DeprecationWarning")
    assert line["source"]["file"] == "tests/unit/test_log.py"


def test_text_format_is_slogs(configured: Configured) -> None:
    stream = configured("info", "text")
    get_logger(__name__).info("two words", node="gpu-1", empty="", quote='a"b', count=3, on=True)
    written = stream.getvalue()
    assert re.match(r"time=\S+Z level=INFO source=tests/unit/test_log.py:\d+ msg=", written)
    assert written.endswith(
        'msg="two words" service=gpuid node=gpu-1 empty="" quote="a\\"b" count=3 on=true\n'
    )


@pytest.mark.parametrize(("level", "form"), [("info", "json"), ("error", "text")])
def test_records_are_json_at_any_level_and_format(
    configured: Configured, level: Level, form: Format
) -> None:
    stream = configured(level, form)
    register_secret("gpu-1")
    write_records([RECORD, {**RECORD, "node": "gpu-2"}])
    first, second = lines(stream)
    assert first == {
        "level": "INFO",
        "msg": "gpu serial number reading",
        "service": "gpuid",
        **RECORD,
    }
    assert second["node"] == "gpu-2"


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("secret", ["hunter2-x", 'with"quote\\back', "p@ss/word?", "zwei\nZeilen"])
def test_no_secret_in_any_line(configured: Configured, form: Format, secret: str) -> None:
    stream = configured("debug", form)
    register_secret(secret)
    log = get_logger(__name__)
    try:
        raise ValueError(f"cannot log in with {secret}")
    except ValueError:
        log.exception(f"failed with {secret}", nested={"deep": [f"token={secret}"]}, plain=secret)
    log.info("url", url=f"https://host/{quote(secret, safe='')}")
    logging.getLogger("asyncpg").error("dsn %s", f"postgres://user:{secret}@host/db")
    print(f"printed {secret}")
    written = stream.getvalue()
    for part in secret.splitlines():
        assert part not in written
        assert json.dumps(part)[1:-1] not in written
        assert quote(part, safe="") not in written
    assert "***" in written
    assert "failed with" in written


def test_a_secret_in_use_is_masked_until_its_user_has_another(configured: Configured) -> None:
    stream = configured("info", "json")
    user, other = SecretsInUse(), SecretsInUse()
    user.set("token-0", "signing-key")
    other.set("shared-token")
    for number in range(1, 1001):
        user.set(f"token-{number}", "signing-key", "shared-token")
    user.set("token-1000", "signing-key")
    log = get_logger(__name__)
    for text in ("token-1000", "token-999", "signing-key", "shared-token", "token-1"):
        log.info("sent", text=text)
    assert [line["text"] for line in lines(stream)] == ["***", "***", "***", "***", "token-1"]


def test_rotated_secrets_take_bounded_memory(configured: Configured) -> None:
    configured("info", "json")
    user = SecretsInUse()
    for number in range(1000):
        user.set(f"token/{number}")
    texts = len(redact._secrets.texts)
    for number in range(1000, 2000):
        user.set(f"token/{number}")
    assert len(redact._secrets.texts) == len(redact._secrets.needles) == texts


def test_many_secrets_in_use_are_all_masked(configured: Configured) -> None:
    stream = configured("info", "json")
    users = [SecretsInUse() for _ in range(500)]
    for number, user in enumerate(users):
        user.set(f"<token-{number}>")
    log = get_logger(__name__)
    for number in range(500):
        log.info("sent", text=f"<token-{number}>")
    assert {line["text"] for line in lines(stream)} == {"***"}


def test_a_permanent_secret_stays_masked_when_its_user_has_another(configured: Configured) -> None:
    stream = configured("info", "json")
    register_secret("of-the-environment")
    user = SecretsInUse()
    user.set("of-the-environment")
    for number in range(1000):
        user.set(f"token-{number}")
    get_logger(__name__).info("sent", text="of-the-environment")
    assert only(stream)["text"] == "***"


def test_userinfo_of_urls_is_masked(configured: Configured) -> None:
    stream = configured("info", "json")
    get_logger(__name__).info(
        "sending to https://user:pass@host:443/path", dsn="postgres://u:p:w@db/x?a=b@c"
    )
    line = only(stream)
    assert line["msg"] == "sending to https://***@host:443/path"
    assert line["dsn"] == "postgres://***@db/x?a=b@c"


def test_numbers_and_names_of_fields_stay(configured: Configured) -> None:
    stream = configured("info", "json")
    register_secret("1234")
    get_logger(__name__).info("x", **{"1234": 12345, "text": "12345"})
    line = only(stream)
    assert line["1234"] == 12345
    assert line["text"] == "***5"


def test_short_values_are_not_taken_for_secrets(configured: Configured) -> None:
    stream = configured("info", "json")
    register_secret("")
    register_secret("a")
    get_logger(__name__).info("a banana")
    assert only(stream)["msg"] == "a banana"


def test_what_is_printed_becomes_lines(configured: Configured) -> None:
    stream = configured("info", "json")
    print("half", end="")
    print(" a line")
    sys.stderr.write("two\n\nlines\n")
    print("rest", end="", flush=True)
    assert [(line["logger"], line["level"], line["msg"]) for line in lines(stream)] == [
        ("stdout", "INFO", "half a line"),
        ("stderr", "WARN", "two"),
        ("stderr", "WARN", "lines"),
        ("stdout", "INFO", "rest"),
    ]


def test_a_process_writes_json_on_stdout_and_nothing_on_stderr() -> None:
    done = run(
        """
        import asyncio, gc, json, logging, sys, threading, warnings
        log = get_logger("main")
        log.info("first")
        write_records([{"node": "n", "source": "ns/pod", "time": "2026-06-07T10:30:45Z"}])
        warnings.warn("a warning of a library", UserWarning)
        logging.getLogger("aiohttp").error("bad %d", "format")
        print("printed")
        sys.stderr.write("printed to stderr\\n")
        log.info("command executed successfully", node="gpu-1", stdout="two\\nlines\\n")

        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()

        class Finalised:
            def __del__(self):
                raise RuntimeError("in a finaliser")
        Finalised()

        async def never_retrieved():
            raise RuntimeError("nobody looked")

        async def main():
            task = asyncio.ensure_future(never_retrieved())
            await asyncio.wait([task])
            del task
            gc.collect()
            def fails():
                raise RuntimeError("in a callback")
            asyncio.get_running_loop().call_soon(fails)
            await asyncio.sleep(0)

        asyncio.run(main())
        raise LookupError("the last line")
        """
    )
    assert done.returncode == 1
    assert done.stderr == ""
    written = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(isinstance(line, dict) for line in written)
    assert all({"time", "level", "source", "msg", "service"} <= set(line) for line in written)
    messages = [line["msg"].splitlines()[0].partition(" at <string>")[0] for line in written]
    assert messages == [
        "first",
        "gpu serial number reading",
        "a warning of a library",
        "bad %d ('format',)",
        "printed",
        "printed to stderr",
        "command executed successfully",
        "uncaught exception in thread",
        "ignored exception",
        "Task exception was never retrieved",
        "Exception in callback main.<locals>.fails()",
        "uncaught exception",
    ]
    assert written[-1]["error"] == "LookupError: the last line"
    assert "Traceback" in written[-1]["stack"]
    # What `jq -s -r '.[] | select(.stdout != null) | "\(.node) \(.msg) \(.stdout)"'` selects.
    chosen = [
        f"{x['node']} {x['msg']} {x['stdout']}" for x in written if x.get("stdout") is not None
    ]
    assert chosen == ["gpu-1 command executed successfully two\nlines\n"]


def test_exit_with_a_message_is_a_line_too() -> None:
    done = run('raise SystemExit("cannot start")')
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["msg"] == "cannot start"


def test_characters_beyond_ascii_whatever_the_locale() -> None:
    done = run('get_logger("x").info("größer als …")', PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["msg"] == "größer als …"


def test_a_closed_pipe_ends_nothing_and_a_record_says_so() -> None:
    program = textwrap.dedent(
        """
        import os, sys
        from gpuid_operator.telemetry.log import *
        configure("info", "json")
        sys.stdin.read()
        get_logger("x").info("nobody reads this")
        try:
            write_records([{"source": "", "time": ""}])
        except BrokenPipeError:
            os._exit(7) if len(sys.argv) > 1 else sys.exit(7)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(60) == 7


def test_a_slow_reader_of_a_nonblocking_pipe_gets_everything() -> None:
    program = textwrap.dedent(
        """
        import os
        from gpuid_operator.telemetry.log import *
        os.set_blocking(1, False)
        configure("info", "json")
        write_records({"source": "", "time": "", "n": n, "pad": "x" * 1000} for n in range(500))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [json.loads(line)["n"] for line in done.stdout.splitlines()] == list(range(500))


def test_lines_of_many_threads_stay_whole() -> None:
    done = run(
        """
        import threading
        log = get_logger("x")
        def work(n):
            for i in range(200):
                log.info("line", worker=n, pad="x" * (i * 7))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        """
    )
    written = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(written) == 800
