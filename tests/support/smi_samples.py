"""Small `nvidia-smi -q -x` outputs in the shapes of the driver generations; identifiers made up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

import pytest

from gpuid_operator.api.inventory import GPU
from gpuid_operator.plan.failure import ReadError
from gpuid_operator.plan.smi import parse

NA: Final = "N/A"


@dataclass(frozen=True)
class Card:
    """What one `<gpu>` prints; None leaves the element out."""

    id: str | None = "00000000:29:00.0"
    uuid: str | None = "GPU-11111111-2222-3333-4444-555555555501"
    serial: str | None = "1650000000017"
    product: str | None = "NVIDIA TEST100"
    architecture: str | None = "Hopper"
    vbios: str | None = "96.00.A5.00.01"
    board_part: str | None = "692-2T520-0200-000"
    gpu_part: str | None = "2330-885-A1"
    chassis: str | None = "1820000000042"
    slot: str | None = "15"
    tray: str | None = "5"
    host: str | None = "1"
    module: str | None = "2"
    cluster: str | None = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
    clique: str | None = "2"
    mig: str | None = "Disabled"
    virtualization: str | None = "Pass-Through"
    recovery: str | None = "None"
    reset_required: str | None = "Requested functionality has been deprecated"
    dram: str | None = "3"
    sram: str | None = "4"
    parity: str | None = "1"
    row_pending: str | None = "No"
    row_failure: str | None = "No"
    pages_pending: str | None = NA
    temperature: str | None = "31 C"
    processes: bytes = b""


@dataclass(frozen=True)
class Generation:
    """How a generation of drivers writes the same facts."""

    name: str
    dtd: int | None
    driver: str
    cuda: str | None = "12.8"
    version_tags: tuple[str, str] = ("driver_version", "cuda_version")
    board_part: bool = True
    platform_info: bool = True
    fabric: bool = True
    ecc: str = "split"
    rows: bool = True
    extra: tuple[tuple[str, str], ...] = field(default=())


R340: Final = Generation(
    "R340", 6, "340.102", cuda=None, board_part=False, platform_info=False, fabric=False,
    ecc="double_bit", rows=False,
)  # fmt: skip
R470: Final = Generation(
    "R470", 11, "470.82.01", "11.4", board_part=False, platform_info=False, fabric=False,
    ecc="total",
)  # fmt: skip
R535: Final = Generation("R535", 12, "535.54.03", "12.2", platform_info=False, ecc="total")
R570: Final = Generation("R570", 12, "570.148.08")
R595: Final = Generation("R595", 13, "595.91.07", "13.2", extra=(("pdi", "0x0000000000000001"),))
R615: Final = Generation("R615", 13, "615.10", "13.4", ("kmd_version", "cuda_umd_version"))
NO_DOCTYPE: Final = Generation("no DOCTYPE", None, "570.86.15")
GENERATIONS: Final = (R340, R470, R535, R570, R595, R615, NO_DOCTYPE)


def element(name: str, value: str | None) -> str:
    return "" if value is None else f"<{name}>{escape(value)}</{name}>\n"


def group(name: str, *children: str) -> str:
    return f"<{name}>\n{''.join(children)}</{name}>\n"


def gpu(card: Card, generation: Generation = R570) -> bytes:
    """The `<gpu>` element of a card."""
    board = card.board_part if generation.board_part else None
    part = card.gpu_part if generation.board_part else card.board_part
    body = [
        element("product_name", card.product),
        element("product_brand", "NVIDIA"),
        element("product_architecture", card.architecture),
        group("mig_mode", element("current_mig", card.mig), element("pending_mig", "Enabled")),
        "<mig_devices>\nNone\n</mig_devices>\n",
        element("serial", card.serial),
        element("uuid", card.uuid),
        *(element(name, value) for name, value in generation.extra),
        element("vbios_version", card.vbios),
        element("board_part_number", board),
        element("gpu_part_number", part),
        _platform(card, generation),
        group("gpu_virtualization_mode", element("virtualization_mode", card.virtualization)),
        group("gpu_reset_status", element("reset_required", card.reset_required)),
        element("gpu_recovery_action", card.recovery),
        group("pci", element("pci_bus", "29"), element("pci_bus_id", card.id)),
        _ecc(card, generation),
        group(
            "retired_pages",
            group("double_bit_retirement", element("retired_count", "0")),
            element("pending_retirement", card.pages_pending),
        ),
        group(
            "remapped_rows",
            element("remapped_row_unc", "0"),
            element("remapped_row_pending", card.row_pending),
            element("remapped_row_failure", card.row_failure),
        )
        if generation.rows
        else element("remapped_rows", NA),
        group("temperature", element("gpu_temp", card.temperature)),
    ]
    if generation.fabric:
        body.append(
            group("fabric", element("cliqueId", card.clique), element("clusterUuid", card.cluster))
        )
    attribute = f' id="{card.id}"' if card.id is not None else ""
    return (
        f"<gpu{attribute}>\n{''.join(body)}<processes>\n".encode()
        + card.processes
        + b"</processes>\n<accounted_processes>\n</accounted_processes>\n</gpu>\n\n"
    )


def output(
    *cards: Card,
    generation: Generation = R570,
    attached: str | None = "as listed",
) -> bytes:
    """A whole output; `attached` is the text of attached_gpus where it is not the count."""
    driver_tag, cuda_tag = generation.version_tags
    doctype = (
        f'<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v{generation.dtd}.dtd">\n'
        if generation.dtd is not None
        else ""
    )
    head = (
        f'<?xml version="1.0" ?>\n{doctype}<nvidia_smi_log>\n'
        + element("timestamp", "Sat Sep 13 10:52:45 2025")
        + element(driver_tag, generation.driver)
        + element(cuda_tag, generation.cuda)
        + element("attached_gpus", str(len(cards)) if attached == "as listed" else attached)
    )
    bodies = b"".join(gpu(card, generation) for card in cards)
    return head.encode() + bodies + b"</nvidia_smi_log>\n"


def process(name: bytes) -> bytes:
    """An entry of `<processes>`, with the name in the bytes that the tenant chose."""
    return (
        b"<process_info>\n<pid>7</pid>\n<process_name>"
        + name
        + b"</process_name>\n</process_info>\n"
    )


TWO: Final = (
    Card(),
    Card(
        id="00000000:3F:00.0",
        uuid="GPU-11111111-2222-3333-4444-555555555502",
        module="1",
    ),
)
"""Two GPUs of one board: a serial in common, UUIDs of their own."""


def only(stdout: bytes) -> GPU:
    """The one GPU that the parser finds."""
    (gpu,) = parse(stdout).gpus
    return gpu


def refusal(stdout: bytes, *, exit_code: int | None = 0, stderr: bytes = b"") -> ReadError:
    """The error that the parser raises."""
    with pytest.raises(ReadError) as caught:
        parse(stdout, exit_code=exit_code, stderr=stderr)
    return caught.value


def _platform(card: Card, generation: Generation) -> str:
    if not generation.platform_info:
        return element("gpu_module_id", card.module)
    return group(
        "platformInfo",
        element("chassis_serial_number", card.chassis),
        element("slot_number", card.slot),
        element("tray_index", card.tray),
        element("host_id", card.host),
        element("peer_type", "Switch Connected"),
        element("module_id", card.module),
    )


def _ecc(card: Card, generation: Generation) -> str:
    volatile = group("volatile", element("dram_uncorrectable", "99"))
    if generation.ecc == "double_bit":
        total = element("total", card.dram)
        counts = group("single_bit", element("total", "98")) + group(
            "double_bit", element("device_memory", card.dram), total
        )
    elif generation.ecc == "total":
        counts = element("sram_uncorrectable", card.sram) + element("dram_uncorrectable", card.dram)
    else:
        counts = (
            element("sram_correctable", "97")
            + element("sram_uncorrectable_parity", card.parity)
            + element("sram_uncorrectable_secded", card.sram)
            + element("dram_uncorrectable", card.dram)
            + element("sram_threshold_exceeded", "No")
        )
    return group(
        "ecc_errors",
        volatile,
        group("aggregate", counts),
        group("aggregate_uncorrectable_sram_sources", element("sram_l2", "96")),
    )
