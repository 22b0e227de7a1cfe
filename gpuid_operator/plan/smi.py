"""Parses the output of `nvidia-smi -q -x`.

The exit code does not decide whether an output is good: nvidia-smi exits with 14 (corrupted
infoROM) after a complete output, and prints errors on stdout. A good document is closed, has as
many `<gpu>` elements as it claims, and does not contradict itself. Anything else is a `ReadError`,
so that an unreadable GPU never looks like a missing one.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from lxml import etree

from gpuid_operator.api.inventory import GPU
from gpuid_operator.api.meta import MAX_GPUS
from gpuid_operator.plan.failure import FailureReason, ReadError
from gpuid_operator.plan.smi_gpu import read_gpu
from gpuid_operator.plan.smi_text import first_line, known_failure, unlisted_gpu
from gpuid_operator.plan.smi_values import integer, text_of

MAX_OUTPUT_BYTES: Final = 2 * 1024 * 1024
"""Maximum size of stdout in bytes; the largest known output has 360 KB."""

_ROOT: Final = b"<nvidia_smi_log"
_ROOT_END: Final = re.compile(rb"</nvidia_smi_log\s*>")
_STARTS: Final = (b"<?xml", b"<!DOCTYPE nvidia_smi_log", _ROOT)
_DTD_VERSION: Final = re.compile(rb"nvsmi_device_v([0-9]{1,4})\.dtd")
_TROUBLE: Final = re.compile(rb"GPU (?:is (?:lost|inaccessible)|requires reset)")
_FORBIDDEN_CHARACTERS: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FACTS: Final = (
    "attached_gpus",
    "kmd_version",
    "driver_version",
    "cuda_umd_version",
    "cuda_version",
)
_GOOD_EXIT_CODES: Final = (None, 0, 14)

_PARSER: Final = etree.XMLParser(
    encoding="utf-8",
    resolve_entities=False,
    load_dtd=False,
    no_network=True,
    huge_tree=False,
    recover=False,
    remove_blank_text=True,
    remove_comments=True,
    remove_pis=True,
    collect_ids=False,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The facts of one good output."""

    driver_version: str | None
    """Version of the kernel driver."""
    cuda_version: str | None
    """Newest CUDA version that the driver supports."""
    gpus: tuple[GPU, ...]
    """All GPUs in PCI order, those without a PCI address last; `index` is the position in the
    output."""


def parse(stdout: bytes, *, exit_code: int | None = 0, stderr: bytes = b"") -> Reading:
    """Parse one output of `nvidia-smi -q -x`.

    `exit_code` is None if unknown. Raises ReadError with

    - `NvidiaSmiNotFound`, `DriverNotLoaded` or `ExecFailed` for an output that is not XML,
      depending on its text and exit code,
    - `Incomplete` for an empty output, an unclosed document, or fewer GPUs than it claims,
    - `Unparsable` for any other bad document, and above `MAX_OUTPUT_BYTES` or `MAX_GPUS`.
    """
    if len(stdout) > MAX_OUTPUT_BYTES:
        raise _unparsable(
            f"more than {MAX_OUTPUT_BYTES} bytes; check the output of the command in the container"
        )
    document, around = _cut_out(stdout, exit_code=exit_code, stderr=stderr)
    version = _DTD_VERSION.search(document, 0, document.find(_ROOT))
    document = _without_processes(document)
    if b"[" in document and b"<!ENTITY" in document:
        raise _unparsable("a document that declares entities, which nvidia-smi never does")
    root = _root(document)
    facts = {child.tag: child.text for child in root.iterchildren(*_FACTS, reversed=True)}
    bodies = list(root.iterchildren("gpu"))
    attached = integer(facts.get("attached_gpus"))
    _check_count(
        attached=attached,
        listed=len(bodies),
        closed=document.count(b"</gpu>"),
        # In place of a GPU whose PCI address NVML does not tell.
        error=text_of(root.findtext("error_string")),
    )
    if not bodies and (exit_code not in _GOOD_EXIT_CODES or known_failure(around, exit_code=0)):
        raise ReadError(
            FailureReason.EXEC_FAILED,
            f"nvidia-smi -q -x listed no GPU and failed (exit code {exit_code}):"
            f" {first_line(around) or 'no message'}; check dmesg for errors of the driver",
        )
    troubled = _TROUBLE.search(document) is not None
    dtd_version = int(version[1]) if version else None
    gpus = [
        read_gpu(body, index=index, dtd_version=dtd_version, troubled=troubled)
        for index, body in enumerate(bodies)
    ]
    _check_identities(gpus, around)
    gpus.sort(key=lambda gpu: (gpu.pci_address is None, gpu.pci_address or ""))
    return Reading(
        driver_version=text_of(facts.get("kmd_version")) or text_of(facts.get("driver_version")),
        cuda_version=text_of(facts.get("cuda_umd_version")) or text_of(facts.get("cuda_version")),
        gpus=tuple(gpus),
    )


def _unparsable(came: str) -> ReadError:
    return ReadError(FailureReason.UNPARSABLE, f"nvidia-smi -q -x printed {came}")


def _cut_out(stdout: bytes, *, exit_code: int | None, stderr: bytes) -> tuple[bytes, bytes]:
    """The document and the text around it: errors appear before, after or instead of it."""
    starts = [at for mark in _STARTS if (at := stdout.find(mark)) >= 0]
    start = min(starts, default=-1)
    end = stdout.rfind(b"</nvidia_smi_log")
    close = _ROOT_END.match(stdout, end) if end >= 0 else None
    if start >= 0 and close is not None and start < end:
        return stdout[start : close.end()], stdout[:start] + stdout[close.end() :] + b"\n" + stderr
    if b"<gpu" not in stdout:
        failure = known_failure(stdout + b"\n" + stderr, exit_code=exit_code)
        if failure is not None:
            raise failure
    said = first_line(stderr) or first_line(stdout) or "nothing"
    if start >= 0:
        raise ReadError(
            FailureReason.INCOMPLETE,
            f"nvidia-smi -q -x printed {len(stdout)} bytes that do not end with </nvidia_smi_log>"
            f" (exit code {exit_code}, stderr: {first_line(stderr) or 'empty'}); retrying",
        )
    if exit_code:
        raise ReadError(
            FailureReason.EXEC_FAILED,
            f"nvidia-smi -q -x failed with exit code {exit_code}: {said};"
            " run the command in the container to see why",
        )
    if not stdout.strip():
        raise ReadError(
            FailureReason.INCOMPLETE,
            f"nvidia-smi -q -x printed nothing (stderr: {first_line(stderr) or 'empty'}); retrying",
        )
    raise _unparsable(
        f"text instead of XML: {said}; check which program the container runs for the command"
    )


def _without_processes(document: bytes) -> bytes:
    """Remove the lists of processes: tenants choose these names, in any bytes.

    A list ends at the last closing tag before its `</gpu>`, so that a name cannot end it early.
    """
    pieces, position = [], 0
    while (start := document.find(b"<processes>", position)) >= 0:
        limit = document.find(b"</gpu>", start)
        end = document.rfind(b"</processes>", start, limit if limit >= 0 else len(document))
        if end < 0:
            raise _unparsable("an unterminated list of processes; retrying")
        pieces.append(document[position:start])
        position = end + len(b"</processes>")
    return b"".join((*pieces, document[position:])) if pieces else document


def _root(document: bytes) -> Any:
    try:
        root = etree.fromstring(document, _PARSER)
    except etree.XMLSyntaxError as error:
        text = _FORBIDDEN_CHARACTERS.sub("", document.decode(errors="replace"))
        repaired = text.encode()
        if repaired == document:
            raise _unparsable(f"invalid XML: {error}") from None
        return _root(repaired)
    if root.tag != "nvidia_smi_log":
        raise _unparsable(f"a document of {root.tag} instead of nvidia_smi_log")
    # An undeclared entity splits a value.
    if b"&" in document and next(root.iter(etree.Entity), None) is not None:
        raise _unparsable("an undeclared XML entity")
    return root


def _check_count(*, attached: int | None, listed: int, closed: int, error: str | None) -> None:
    if attached is None and not listed:
        raise ReadError(
            FailureReason.INCOMPLETE,
            "nvidia-smi -q -x printed neither a GPU nor the number of attached GPUs; retrying",
        )
    if attached is not None and listed < attached:
        raise ReadError(
            FailureReason.INCOMPLETE,
            f"nvidia-smi -q -x reports {attached} attached GPUs but lists {listed}"
            f"{f' and “{error}”' if error else ''};"
            " retrying; if this persists, check dmesg for errors of the driver",
        )
    # More </gpu> than bodies: a process name contains one, to end a body early.
    if closed > listed or (attached is not None and listed > attached):
        raise _unparsable(
            f"{max(closed, listed)} GPUs but reports {attached} as attached;"
            " check the output of the command in the container"
        )
    if listed > MAX_GPUS:
        raise _unparsable(f"{listed} GPUs; an inventory holds at most {MAX_GPUS}")


def _check_identities(gpus: list[GPU], around: bytes) -> None:
    if any(gpu.uuid is None and gpu.serial is None and gpu.pci_address is None for gpu in gpus):
        raise ReadError(
            FailureReason.INCOMPLETE,
            "nvidia-smi -q -x printed a GPU without UUID, serial and PCI address; retrying",
        )
    for name, values in (
        ("UUID", [gpu.uuid for gpu in gpus if gpu.uuid]),
        ("PCI address", [gpu.pci_address for gpu in gpus if gpu.pci_address]),
    ):
        if len(set(values)) < len(values):
            twice = Counter(values).most_common(1)[0][0]
            raise _unparsable(f"two GPUs with the same {name} {twice}")
    missing = unlisted_gpu(around, {gpu.pci_address for gpu in gpus}) if around.strip() else None
    if missing:
        raise ReadError(
            FailureReason.INCOMPLETE,
            f"nvidia-smi -q -x lists {len(gpus)} GPUs and reports: {missing};"
            " check dmesg, then reset that GPU or reboot the node",
        )
