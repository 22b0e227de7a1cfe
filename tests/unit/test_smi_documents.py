"""What the parser of nvidia-smi makes of whole outputs: good ones, bad ones, and none at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.plan.smi import MAX_OUTPUT_BYTES, Reading, parse
from tests.support.smi_samples import (  # fmt: skip
    TWO,
    Card,
    only,
    output,
    process,
    refusal,
)

# Processes and bytes


@pytest.mark.parametrize(
    "name",
    [
        b"/usr/bin/\xff\xfe\x80",
        b"a<b>&c;\x00",
        b"</process_name></process_info></processes><serial>666</serial>",
        b"</processes><processes><!--",
    ],
)
def test_process_names_are_never_read(name: bytes) -> None:
    cards = [replace(card, processes=process(name)) for card in TWO]
    assert parse(output(*cards)) == parse(output(*TWO))


def test_a_process_name_cannot_forge_a_gpu() -> None:
    forged = (
        b"</processes></gpu><!--<processes>",
        b'</processes></gpu>--><gpu id="0000:99:00.0"><uuid>GPU-forged</uuid><processes>',
    )
    cards = [
        replace(TWO[0], processes=process(forged[0])),
        replace(TWO[1], processes=process(forged[1])),
    ]
    assert refusal(output(*cards)).reason is FailureReason.UNPARSABLE


def test_bytes_that_are_no_utf8_make_only_their_value_absent() -> None:
    gpu = only(output(Card()).replace(b"NVIDIA TEST100", b"NVIDIA \xff\x01"))
    assert (gpu.product, gpu.serial) == (None, "1650000000017")


@pytest.mark.parametrize("name", ["process", "x" * 900], ids=len)
def test_size(name: str) -> None:
    card = replace(Card(), processes=process(name.encode()) * 300)
    assert only(output(card)).serial == "1650000000017"


def test_an_output_over_the_cap_is_unparsable() -> None:
    error = refusal(output(Card()) + b" " * MAX_OUTPUT_BYTES)
    assert error.reason is FailureReason.UNPARSABLE
    assert str(MAX_OUTPUT_BYTES) in error.message


# Text around the document


def test_text_before_and_after_the_document() -> None:
    stdout = (
        b"\xef\xbb\xbfwarning: persistence daemon <not running>\n"
        + output(*TWO)
        + b"WARNING: infoROM is corrupted at gpu 0000:29:00.0\n"
    )
    assert parse(stdout, exit_code=14) == parse(output(*TWO))


@pytest.mark.parametrize("exit_code", [0, 1, 14, 15, 43, 255, None])
def test_a_good_document_is_read_whatever_the_exit_code(exit_code: int | None) -> None:
    assert parse(output(*TWO), exit_code=exit_code, stderr=b"noise") == parse(output(*TWO))


HANDLE = b"Unable to determine the device handle for GPU 0000:02:00.0: Unknown Error\n"


def test_a_gpu_that_could_not_be_opened_is_missing() -> None:
    for error in (
        refusal(HANDLE + output(*TWO)),
        refusal(output(*TWO), stderr=HANDLE),
        refusal(output(*TWO) + HANDLE.replace(b" 0000:02:00.0", b""), exit_code=255),
    ):
        assert error.reason is FailureReason.INCOMPLETE
        assert "Unable to determine the device handle" in error.message


def test_a_gpu_that_could_not_be_opened_but_is_listed_is_not_missing() -> None:
    assert len(parse(HANDLE.replace(b"02:", b"3f:") + output(*TWO)).gpus) == 2


# How many


def test_fewer_gpus_than_attached_is_incomplete() -> None:
    error = refusal(output(*TWO, attached="4"))
    assert error.reason is FailureReason.INCOMPLETE
    assert "reports 4 attached GPUs but lists 2" in error.message


def test_an_error_in_place_of_a_gpu_is_quoted() -> None:
    error = b"<error_string>Unable to determine the PCI bus id: GPU is lost</error_string>"
    body = output(*TWO, attached="3").replace(b"</nvidia_smi_log>", error + b"</nvidia_smi_log>")
    said = "lists 2 and “Unable to determine the PCI bus id: GPU is lost”; retrying"
    assert said in refusal(body).message


def test_more_gpus_than_attached_is_unparsable() -> None:
    assert refusal(output(*TWO, attached="1")).reason is FailureReason.UNPARSABLE


@pytest.mark.parametrize("attached", [None, "N/A", ""])
def test_gpus_count_where_attached_says_nothing(attached: str | None) -> None:
    assert len(parse(output(*TWO, attached=attached)).gpus) == 2


def test_no_gpu_only_where_the_output_says_so() -> None:
    assert parse(output()) == Reading(driver_version="570.148.08", cuda_version="12.8", gpus=())
    assert refusal(output(attached=None)).reason is FailureReason.INCOMPLETE
    assert refusal(output(attached="N/A")).reason is FailureReason.INCOMPLETE
    assert refusal(output(), exit_code=6).reason is FailureReason.EXEC_FAILED
    assert refusal(output(), stderr=b"No devices were found\n").reason is FailureReason.EXEC_FAILED


def test_64_gpus_and_no_more() -> None:
    cards = [Card(id=f"0000:{n:02x}:00.0", uuid=f"GPU-{n}") for n in range(65)]
    assert len(parse(output(*cards[:64])).gpus) == 64
    error = refusal(output(*cards))
    assert error.reason is FailureReason.UNPARSABLE
    assert "at most 64" in error.message


def test_twins_share_a_serial_but_no_uuid_and_no_address() -> None:
    assert {g.serial for g in parse(output(*TWO)).gpus} == {"1650000000017"}
    same_uuid = refusal(output(TWO[0], replace(TWO[1], uuid=TWO[0].uuid)))
    same_address = refusal(output(TWO[0], replace(TWO[1], id="0000:29:00.0")))
    assert same_uuid.reason is same_address.reason is FailureReason.UNPARSABLE
    assert str(TWO[0].uuid) in same_uuid.message
    assert "00000000:29:00.0" in same_address.message


def test_a_gpu_without_any_identity_is_incomplete() -> None:
    nobody = Card(id=None, uuid=None, serial="N/A")
    assert refusal(output(TWO[0], nobody)).reason is FailureReason.INCOMPLETE


# Texts that are no document


@pytest.mark.parametrize("encoding", [b"utf-16", b"iso-8859-1", b"nonsense"])
def test_the_encoding_is_utf8_whatever_the_declaration_says(encoding: bytes) -> None:
    declared = output(Card(product="Größe")).replace(
        b'version="1.0"', b'version="1.0" encoding="' + encoding + b'"'
    )
    assert only(declared).product == "Größe"


@pytest.mark.parametrize(
    ("said", "exit_code", "reason"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure "
         "that the latest NVIDIA driver is installed and running.\n", 9, "DriverNotLoaded"),
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.1",
         18, "DriverNotLoaded"),
        ("Failed to initialize NVML: Unknown Error", 255, "DriverNotLoaded"),
        ("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", 12, "DriverNotLoaded"),
        ('exec: "nvidia-smi": executable file not found in $PATH: unknown', 128,
         "NvidiaSmiNotFound"),
        ("sh: 1: nvidia-smi: not found", 127, "NvidiaSmiNotFound"),
        ("bash: line 1: nvidia-smi: command not found", None, "NvidiaSmiNotFound"),
        ('exec: "/usr/local/nvidia/bin/nvidia-smi": stat /usr/local/nvidia/bin/nvidia-smi: no such '
         "file or directory", 126, "NvidiaSmiNotFound"),
        ("", 127, "NvidiaSmiNotFound"),
        (HANDLE.decode(), 255, "ExecFailed"),
        ("No devices were found", 6, "ExecFailed"),
        ("No devices were found", 0, "ExecFailed"),
        ("Segmentation fault", 139, "ExecFailed"),
        ("", 1, "ExecFailed"),
        ("", 0, "Incomplete"),
        (" \n", None, "Incomplete"),
        ("hello", 0, "Unparsable"),
        ("<html></html>", 0, "Unparsable"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_output_without_a_document_is_judged_by_its_words(
    said: str, exit_code: int | None, reason: str, stream: str
) -> None:
    if stream == "stderr" and reason == "Unparsable":
        reason = "Incomplete"  # nothing on stdout and no sign of failure
    out, err = (said, "") if stream == "stdout" else ("", said)
    error = refusal(out.encode(), exit_code=exit_code, stderr=err.encode())
    assert error.reason == reason
    words = said.strip().splitlines()
    if words:
        assert words[0][:60] in error.message
    if exit_code and reason == "ExecFailed":
        assert f"exit code {exit_code}" in error.message


def test_words_in_place_of_a_document_that_began() -> None:
    began = output(*TWO).split(b"<timestamp>")[0]
    error = refusal(began + b"Failed to initialize NVML: Unknown Error\n", exit_code=255)
    assert error.reason is FailureReason.DRIVER_NOT_LOADED


def test_a_cut_document_is_incomplete_with_what_stderr_said() -> None:
    error = refusal(output(*TWO)[:-30], exit_code=1, stderr=b"\nbroken pipe\n")
    assert error.reason is FailureReason.INCOMPLETE
    assert "exit code 1" in error.message
    assert "broken pipe" in error.message


@pytest.mark.parametrize(
    "stdout",
    [
        b"<?xml version='1.0'?><other></other></nvidia_smi_log>",
        output(Card()).replace(b"</serial>", b"</serail>"),
        output(Card()) + output(Card()),
        output(Card()).replace(b"1650000000017", b"16500&made;up"),
        output(Card()).replace(b'.dtd">', b'.dtd" [<!ENTITY a "b">]>').replace(b"15</", b"&a;</"),
        output(Card())
        .replace(b'.dtd">', b'.dtd" [<!ENTITY a "00">]>')
        .replace(b'id="00', b'id="&a;'),
        output(Card()).replace(b'.dtd">', b'.dtd" [<!ENTITY % a SYSTEM "file:///etc/passwd">%a;]>'),
        b"<nvidia_smi_log>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</nvidia_smi_log>",
        output(Card()).replace(b"</processes>", b""),
    ],
)
def test_bad_documents_are_unparsable(stdout: bytes) -> None:
    assert refusal(stdout).reason is FailureReason.UNPARSABLE


def test_an_error_of_many_lines_is_one_printable_line() -> None:
    error = refusal(b"\x1b[31mbad\x00 \xff\n" + b"x" * 5000, exit_code=3)
    assert error.message.isprintable()
    assert "bad" in error.message
    long = refusal(b"word " * 5000, exit_code=3, stderr=b"y" * 5000)
    assert len(long.message) <= 1024
    assert str(long) == long.message


def test_a_document_of_another_namespace_is_unparsable() -> None:
    error = refusal(output(*TWO).replace(b"<nvidia_smi_log>", b'<nvidia_smi_log xmlns="x">'))
    assert error.reason is FailureReason.UNPARSABLE
    assert "instead of nvidia_smi_log" in error.message
