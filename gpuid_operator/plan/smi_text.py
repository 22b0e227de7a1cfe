"""Error messages that nvidia-smi, or the container runtime, prints instead of XML."""

from __future__ import annotations

import re
from typing import Final

from gpuid_operator.plan.failure import FailureReason, ReadError, one_line
from gpuid_operator.plan.smi_values import pci_address

_KNOWN: Final = (
    (
        re.compile(
            r"executable file not found|command not found|nvidia-smi: not found"
            r"|nvidia-smi\W.*no such file or directory",
            re.IGNORECASE,
        ),
        FailureReason.NVIDIA_SMI_NOT_FOUND,
        "select a container that has nvidia-smi (TARGETS), or set the command to its path",
    ),
    (
        re.compile(r"driver/library version mismatch", re.IGNORECASE),
        FailureReason.DRIVER_NOT_LOADED,
        "the driver was upgraded under the running kernel module: reboot the node, or reload the"
        " module and restart the pod",
    ),
    (
        re.compile(r"failed to initialize nvml", re.IGNORECASE),
        FailureReason.DRIVER_NOT_LOADED,
        "the container cannot reach the driver: restart the pod, and check the driver on the node",
    ),
    (
        re.compile(
            r"couldn.t communicate with the nvidia driver|couldn.t find libnvidia-ml"
            r"|nvidia driver is not loaded",
            re.IGNORECASE,
        ),
        FailureReason.DRIVER_NOT_LOADED,
        "install or start the NVIDIA driver on the node",
    ),
    (
        re.compile(r"no devices were found|unable to determine the device handle", re.IGNORECASE),
        FailureReason.EXEC_FAILED,
        "the driver cannot use a GPU: check dmesg, then reset the GPU or reboot the node",
    ),
)
"""Pattern of a line, reason, what to do. The first match counts."""

_NOT_RUN_EXIT_CODES: Final = (126, 127)
"""Exit codes of shells and runtimes for a command that they cannot execute or do not find."""

_HANDLE: Final = re.compile(r"unable to determine the device handle", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.IGNORECASE)
_OUTPUT, _LINES, _LINE = 65536, 1000, 1000
"""How much of an output is searched: bytes in total, lines, bytes per line."""
_QUOTED: Final = 300
"""Maximum length of a quoted line in characters."""


def first_line(output: bytes) -> str:
    """The first line with printable text; empty if there is none."""
    for line in _lines(output):
        text = one_line(line, limit=_QUOTED)
        if text:
            return text
    return ""


def known_failure(output: bytes, *, exit_code: int | None) -> ReadError | None:
    """The failure that the text or the exit code indicates; None for an unknown text."""
    for line in _lines(output):
        for pattern, reason, advice in _KNOWN:
            if pattern.search(line):
                said = one_line(line, limit=_QUOTED)
                return ReadError(
                    reason, f"nvidia-smi -q -x printed “{said}”{_code(exit_code)}; {advice}"
                )
    if exit_code in _NOT_RUN_EXIT_CODES:
        _, reason, advice = _KNOWN[0]
        said = first_line(output)
        return ReadError(
            reason, f"nvidia-smi -q -x failed with exit code {exit_code}: {said}; {advice}"
        )
    return None


def unlisted_gpu(output: bytes, listed: set[str | None]) -> str | None:
    """The line about a GPU that nvidia-smi cannot open and whose address is not in `listed`.

    A line without an address counts, too: the GPU is unknown.
    """
    for line in _lines(output):
        if _HANDLE.search(line):
            address = _ADDRESS.search(line)
            if address is None or pci_address(address[0]) not in listed:
                return one_line(line, limit=_QUOTED)
    return None


def _lines(output: bytes) -> list[str]:
    return [
        line[:_LINE].decode(errors="replace") for line in output[:_OUTPUT].splitlines()[:_LINES]
    ]


def _code(exit_code: int | None) -> str:
    return "" if exit_code is None else f" (exit code {exit_code})"
