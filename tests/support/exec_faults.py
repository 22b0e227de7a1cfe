"""What can become of a run of nvidia-smi, as answers of the fake exec."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final

from gpuid_operator.kube.errors import ApiUnreachable
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import forbidden, server_error
from tests.support.smi_fixtures import bodies, with_bodies

Fault = Callable[[bytes, random.Random], ExecAnswer]
"""The answer instead of a whole output."""

MB: Final = 1024 * 1024
_CLOCK: Final = "\t\t\t<supported_graphics_clock>1980 MHz</supported_graphics_clock>\n"


def _part(xml: bytes, rng: random.Random) -> bytes:
    return xml[: rng.randrange(1, xml.rindex(b"</nvidia_smi_log>"))]


def _big(xml: bytes, size: int) -> bytes:
    """The same GPUs in a document of about this size, as of a machine with very many clocks."""
    clocks = f"\t\t<supported_clocks>\n{_CLOCK * (size // len(_CLOCK))}\t\t</supported_clocks>\n"
    return xml.replace(b"\t</gpu>\n", clocks.encode() + b"\t</gpu>\n", 1)


def _twice(xml: bytes) -> bytes:
    gpus = bodies(xml.decode())
    return with_bodies(xml.decode(), [*gpus, *gpus[:1]]).encode() if gpus else b""


def _miscounted(xml: bytes) -> bytes:
    return re.sub(rb"<attached_gpus>\d+", b"<attached_gpus>63", xml)


def _said(text: bytes, code: int) -> Fault:
    return lambda xml, rng: ExecAnswer(stdout=text, exit_code=code)


FAILURES: Final[dict[str, Fault]] = {
    "hangs": lambda xml, rng: ExecAnswer(hang=True),
    "whole, without a status frame": lambda xml, rng: ExecAnswer(stdout=xml, cut=True),
    "half, without a status frame": lambda xml, rng: ExecAnswer(stdout=_part(xml, rng), cut=True),
    "half, with success": lambda xml, rng: ExecAnswer(stdout=_part(xml, rng)),
    "half, killed": lambda xml, rng: ExecAnswer(stdout=_part(xml, rng), exit_code=137),
    "nothing": lambda xml, rng: ExecAnswer(),
    "nothing, exit code 1": lambda xml, rng: ExecAnswer(exit_code=1),
    "garbage": lambda xml, rng: ExecAnswer(stdout=rng.randbytes(rng.randrange(1, 5000))),
    "300 KB of garbage": lambda xml, rng: ExecAnswer(stdout=rng.randbytes(300_000)),
    "50 MB": lambda xml, rng: ExecAnswer(stdout=xml, flood=50 * MB),
    "a GPU twice": lambda xml, rng: ExecAnswer(stdout=_twice(xml)),
    "fewer GPUs than it says": lambda xml, rng: ExecAnswer(stdout=_miscounted(xml)),
    "an entity": lambda xml, rng: ExecAnswer(
        stdout=xml.replace(b"<nvidia_smi_log>", b'<!DOCTYPE x [<!ENTITY a "b">]><nvidia_smi_log>')
    ),
    "driver upgraded under it": _said(
        b"Failed to initialize NVML: Driver/library version mismatch\n", 18
    ),
    "driver not loaded": _said(
        b"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9
    ),
    "no device handle": _said(
        b"Unable to determine the device handle for GPU0000:53:00.0: Unknown Error\n", 255
    ),
    "no devices": _said(b"No devices were found\n", 6),
    "not found": lambda xml, rng: ExecAnswer(
        failure='exec: "nvidia-smi": executable file not found in $PATH'
    ),
    "refused": lambda xml, rng: ExecAnswer(refusal=server_error(500)),
    "forbidden": lambda xml, rng: ExecAnswer(refusal=forbidden()),
    "unreachable": lambda xml, rng: ExecAnswer(refusal=ApiUnreachable("no answer")),
    "no container": lambda xml, rng: ExecAnswer(failure='container not found ("plugin")'),
}
"""Faults after which the read has failed."""

STRAIN: Final[dict[str, Fault]] = {
    "slow": lambda xml, rng: ExecAnswer(stdout=xml, delay=20.0),
    "300 KB": lambda xml, rng: ExecAnswer(stdout=_big(xml, 300_000)),
    "infoROM corrupted": lambda xml, rng: ExecAnswer(stdout=xml, exit_code=14),
}
"""What a read has to bear."""
