"""Converts one `<gpu>` element of `nvidia-smi -q -x` into a GPU of the inventory.

Element names changed between driver generations: each fact is read from the newest known name that
the document has. If an element occurs twice, the first one counts.
"""

from __future__ import annotations

from typing import Any, Final

from gpuid_operator.api.inventory import GPU, Fabric, GPUHealth, GPUState
from gpuid_operator.plan.smi_values import (
    enabled_disabled,
    identifier,
    integer,
    pci_address,
    text_of,
    yes_no,
)

_GROUPS: Final = {
    "platformInfo": (
        "chassis_serial_number",
        "slot_number",
        "tray_index",
        "host_id",
        "module_id",
    ),
    "mig_mode": ("current_mig",),
    "gpu_virtualization_mode": ("virtualization_mode",),
    "gpu_reset_status": ("reset_required",),
    "pci": ("pci_bus_id",),
    "retired_pages": ("pending_retirement",),
    "remapped_rows": ("remapped_row_pending", "remapped_row_failure"),
    "fabric": ("clusterUuid", "cliqueId"),
}
"""Elements with facts as children; no child name occurs in two of them."""

_LEAVES: Final = (
    "product_name",
    "product_architecture",
    "serial",
    "uuid",
    "vbios_version",
    "board_part_number",
    "gpu_part_number",
    "gpu_module_id",
    "gpu_recovery_action",
)
_FIRST_DTD_WITH_CHIP_PART_NUMBER: Final = 12
_TAGS: Final = (*_LEAVES, *_GROUPS)

_SRAM_PARTS: Final = ("sram_uncorrectable_parity", "sram_uncorrectable_secded")
_ECC_COUNTS: Final = ("dram_uncorrectable", "sram_uncorrectable", *_SRAM_PARTS)


def read_gpu(body: Any, *, index: int, dtd_version: int | None, troubled: bool) -> GPU:
    """The facts of one `<gpu>` element (an lxml element); its content never raises.

    `index` is its position in the output, `dtd_version` the number in the DOCTYPE. `troubled` means
    that some body of this output contains a text such as `GPU is lost`.
    """
    facts = _facts(body)
    uuid = identifier(facts.get("uuid"))
    board, chip = _part_numbers(facts, dtd_version=dtd_version)
    module = integer(facts.get("module_id"))
    return GPU(
        uuid=uuid,
        serial=identifier(facts.get("serial")),
        pci_address=pci_address(body.get("id")) or pci_address(facts.get("pci_bus_id")),
        index=index,
        product=text_of(facts.get("product_name")),
        architecture=text_of(facts.get("product_architecture")),
        board_part_number=board,
        gpu_part_number=chip,
        vbios=text_of(facts.get("vbios_version")),
        chassis_serial=identifier(facts.get("chassis_serial_number")),
        slot=integer(facts.get("slot_number")),
        tray=integer(facts.get("tray_index")),
        host_id=integer(facts.get("host_id")),
        module_id=integer(facts.get("gpu_module_id")) if module is None else module,
        fabric=_fabric(facts),
        mig=enabled_disabled(facts.get("current_mig")),
        virtualization=text_of(facts.get("virtualization_mode")),
        state=_state(body, facts, readable=uuid is not None, troubled=troubled),
        health=_health(body, facts),
    )


def _facts(body: Any) -> dict[str, str | None]:
    facts: dict[str, str | None] = {}
    for element in body.iterchildren(*_TAGS):
        names = _GROUPS.get(element.tag)
        leaves = (element,) if names is None else element.iterchildren(*names)
        for leaf in leaves:
            # The text of an element with children is only a part of its value.
            facts.setdefault(leaf.tag, None if len(leaf) else leaf.text)
    return facts


def _part_numbers(
    facts: dict[str, str | None], *, dtd_version: int | None
) -> tuple[str | None, str | None]:
    """Part numbers of the board and of the chip."""
    board = identifier(facts.get("board_part_number"))
    printed = identifier(facts.get("gpu_part_number"))
    if dtd_version is None:
        of_chip = "board_part_number" in facts
    else:
        of_chip = dtd_version >= _FIRST_DTD_WITH_CHIP_PART_NUMBER
    return (board, printed) if of_chip else (board or printed, None)


def _fabric(facts: dict[str, str | None]) -> Fabric | None:
    cluster = identifier(facts.get("clusterUuid"))
    if cluster is None:
        return None
    return Fabric(cluster_uuid=cluster, clique_id=integer(facts.get("cliqueId")))


def _state(body: Any, facts: dict[str, str | None], *, readable: bool, troubled: bool) -> GPUState:
    texts = "\n".join(body.itertext()) if troubled else ""
    if "GPU is lost" in texts:
        return GPUState.LOST
    if "GPU requires reset" in texts or yes_no(facts.get("reset_required")):
        return GPUState.RESET_REQUIRED
    if "GPU is inaccessible" in texts or not readable:
        return GPUState.UNKNOWN
    return GPUState.OK


def _health(body: Any, facts: dict[str, str | None]) -> GPUHealth | None:
    known = {
        "recovery_action": text_of(facts.get("gpu_recovery_action")),
        "ecc_uncorrected": _ecc_uncorrected(body),
        "remapped_rows_pending": yes_no(facts.get("remapped_row_pending")),
        "remapped_rows_failed": yes_no(facts.get("remapped_row_failure")),
        "retired_pages_pending": yes_no(facts.get("pending_retirement")),
    }
    known = {name: value for name, value in known.items() if value is not None}
    return GPUHealth.model_validate(known) if known else None


def _ecc_uncorrected(body: Any) -> int | None:
    """Uncorrectable errors over the life of the GPU; None if no count is readable.

    Up to Volta they are `aggregate/double_bit/total`. Since Turing they are `dram_uncorrectable`
    and `sram_uncorrectable`; the latter is split in two since R550 on Ampere and newer. For a GPU
    that does not answer, nvidia-smi prints the total of Volta as 0, beside errors as its parts.
    """
    counts: dict[str, int | None] = {}
    for errors in body.iterchildren("ecc_errors"):
        for aggregate in errors.iterchildren("aggregate"):
            for element in aggregate.iterchildren(*_ECC_COUNTS):
                counts.setdefault(element.tag, integer(element.text))
            for double_bit in aggregate.iterchildren("double_bit"):
                parts = {child.tag: integer(child.text) for child in double_bit.iterchildren()}
                total = parts.pop("total", None)
                readable = not parts or any(part is not None for part in parts.values())
                counts.setdefault("double_bit", total if readable else None)
    if counts.get("sram_uncorrectable") is not None:
        for part in _SRAM_PARTS:
            counts.pop(part, None)
    found = [count for count in counts.values() if count is not None]
    return sum(found) if found else None
