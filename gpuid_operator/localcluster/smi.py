"""Synthetic output of `nvidia-smi -q -x`: shaped like the real one, with made-up identifiers.

Everything follows from the model, the node's name and the driver, so that a test can generate the
same machine again, or the same GPUs under another driver. What the drivers do differently:

    since   what changed
    R525    <board_part_number> came (before, <gpu_part_number> was the board's)
    R570    <platformInfo> with module_id took the place of <gpu_module_id>; gpu_recovery_action
            came; gpu_reset_status became "Requested functionality has been deprecated"
    R580    DTD v13, <pdi>
    R590    no <gpu_reset_status>
    R615    <driver_version> is <kmd_version>, <cuda_version> is <cuda_umd_version>
"""

from __future__ import annotations

import hashlib
import re
from typing import Final
from xml.sax.saxutils import escape

from gpuid_operator.localcluster import smi_parts as parts
from gpuid_operator.localcluster.smi_models import MODELS, Model
from gpuid_operator.localcluster.smi_parts import DEPRECATED, NA, Tree, when

_NODES_PER_RACK: Final = 18
_CLOCK_LINE: Final = "\t\t\t\t<supported_graphics_clock>1980 MHz</supported_graphics_clock>\n"


def generate(
    model: str,
    *,
    node: str,
    gpus: int | None = None,
    driver: str | None = None,
    mig: bool = False,
    pad_to: int = 90_000,
) -> str:
    """The output of one machine.

    `gpus` defaults to what the model's machine has, `driver` to one of its time. `mig` switches MIG
    on, with two devices per GPU. Lists of supported clocks, which make up much of a real output,
    fill it up to about `pad_to` bytes; 0 leaves them out.
    """
    try:
        spec = MODELS[model]
    except KeyError:
        raise ValueError(f"GPU model {model!r} is not one of {', '.join(MODELS)}") from None
    count = spec.gpus if gpus is None else gpus
    version = driver or spec.driver
    major = int(version.split(".")[0])
    head = _head(spec, version, major, count)
    bodies = [
        _render(_gpu(spec, _Identity(model, node, index), version, major, mig), 2)
        for index in range(count)
    ]
    size = sum(map(len, bodies)) + len(head) + count * 60
    lines = max(0, pad_to - size) // len(_CLOCK_LINE)
    pieces = [head]
    for index, body in enumerate(bodies):
        share = lines // count + (index < lines % count)
        clocks = _CLOCK_LINE * max(0, share - 5)  # 5: the elements around the list
        address = _address(spec, index)
        pieces.append(f'\t<gpu id="{address}">\n{body}')
        if clocks:
            pieces.append(
                "\t\t<supported_clocks>\n\t\t\t<supported_mem_clock>\n"
                f"\t\t\t\t<value>2619 MHz</value>\n{clocks}"
                "\t\t\t</supported_mem_clock>\n\t\t</supported_clocks>\n"
            )
        pieces.append(_render(parts.TAIL, 2) + "\t</gpu>\n\n")
    return "".join(pieces) + "</nvidia_smi_log>\n"


class _Identity:
    """Made-up identifiers of one GPU, the same for the same model, node name and index."""

    def __init__(self, model: str, node: str, index: int) -> None:
        self._model = model
        self._node = node
        self.index = index
        number = re.search(r"\d+$", node)
        self.place = int(number[0]) if number else int(_digits(node, 6))
        self.rack = f"{model}/{node[: number.start()] if number else node}/" + str(
            self.place // _NODES_PER_RACK
        )

    def uuid(self) -> str:
        return "GPU-" + _uuid(f"{self._model}/{self._node}/{self.index}")

    def serial(self, spec: Model) -> str:
        if spec.serial_prefix is None:
            return NA
        board = self.index // spec.gpus_per_board
        return spec.serial_prefix + _digits(f"{self._model}/{self._node}/board{board}", 10)

    def hexadecimal(self, purpose: str) -> str:
        return _hash(f"{self._model}/{self._node}/{self.index}/{purpose}")[:16]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digits(text: str, count: int) -> str:
    return str(int(_hash(text), 16) % 10**count).zfill(count)


def _uuid(text: str) -> str:
    digest = _hash(text)
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))


def _address(spec: Model, index: int) -> str:
    """PCI address of a GPU; more GPUs than the model's machine has go to further buses."""
    if index < spec.gpus:
        return f"{spec.buses[index]}.0"
    return f"00000001:{index:02X}:00.0"


def _head(spec: Model, version: str, major: int, count: int) -> str:
    dtd = 13 if major >= 580 else 12 if major >= 525 else 11
    driver_tag, cuda_tag = (
        ("kmd_version", "cuda_umd_version") if major >= 615 else ("driver_version", "cuda_version")
    )
    return (
        '<?xml version="1.0" ?>\n'
        f'<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v{dtd}.dtd">\n'
        "<nvidia_smi_log>\n"
        "\t<timestamp>Mon Jun  1 12:00:00 2026</timestamp>\n"
        f"\t<{driver_tag}>{version}</{driver_tag}>\n"
        f"\t<{cuda_tag}>{spec.cuda}</{cuda_tag}>\n"
        f"\t<attached_gpus>{count}</attached_gpus>\n"
    )


def _render(tree: Tree, depth: int) -> str:
    tabs = "\t" * depth
    lines = []
    for tag, value in tree:
        if isinstance(value, str):
            lines.append(f"{tabs}<{tag}>{escape(value)}</{tag}>\n")
        else:
            lines.append(f"{tabs}<{tag}>\n{_render(value, depth + 1)}{tabs}</{tag}>\n")
    return "".join(lines)


def _gpu(spec: Model, gpu: _Identity, driver: str, major: int, mig: bool) -> Tree:
    mig_mode = NA if not spec.ecc or not spec.row_remapper else "Enabled" if mig else "Disabled"
    tree: Tree = [
        ("product_name", spec.product),
        ("product_brand", spec.brand),
        ("product_architecture", spec.architecture),
        ("display_mode", DEPRECATED if major >= 590 else "Enabled"),
        *when(major >= 590, ("display_attached", "Yes")),
        ("display_active", "Disabled"),
        ("persistence_mode", "Enabled"),
        ("addressing_mode", "ATS" if spec.chassis == "rack" else "None"),
        ("mig_mode", [("current_mig", mig_mode), ("pending_mig", mig_mode)]),
        ("mig_devices", parts.mig_devices(spec) if mig_mode == "Enabled" else "\n\t\t\tNone\n\t\t"),
        ("accounting_mode", "Disabled"),
        ("accounting_mode_buffer_size", "4000"),
        ("driver_model", [("current_dm", NA), ("pending_dm", NA)]),
        ("serial", gpu.serial(spec)),
        ("uuid", gpu.uuid()),
        *when(major >= 580, ("pdi", f"0x{gpu.hexadecimal('pdi')}")),
        ("minor_number", str(gpu.index)),
        ("vbios_version", spec.vbios),
        ("multigpu_board", "No"),
        ("board_id", f"0x{_address(spec, gpu.index)[9:11].lower().lstrip('0') or '0'}00"),
        *when(major >= 525, ("board_part_number", spec.board_part)),
        ("gpu_part_number", spec.chip_part if major >= 525 else spec.board_part),
        ("gpu_fru_part_number", NA),
    ]
    if major >= 570:
        tree.append(("platformInfo", _platform(spec, gpu)))
    else:
        tree.append(("gpu_module_id", str(gpu.index + 1)))
    return (
        tree
        + parts.inforom(spec, major)
        + parts.modes(spec, driver, major)
        + parts.pci(spec, _address(spec, gpu.index))
        + parts.load(spec)
        + parts.errors(spec, major)
        + parts.sensors(spec, gpu.index)
        + _fabric(spec, gpu, major)
    )


def _platform(spec: Model, gpu: _Identity) -> Tree:
    rack = spec.chassis == "rack"
    return [
        ("chassis_serial_number", f"182{_digits(gpu.rack, 10)}" if rack else spec.chassis),
        ("slot_number", str(gpu.place % _NODES_PER_RACK + 1) if rack else NA),
        ("tray_index", str(gpu.place % _NODES_PER_RACK) if rack else NA),
        ("host_id", "1" if rack else NA),
        ("peer_type", "Switch Connected" if rack else NA),
        ("module_id", str(gpu.index + 1)),
        *when(rack, ("gpu_fabric_guid", f"0x{gpu.hexadecimal('fabric')}")),
    ]


def _fabric(spec: Model, gpu: _Identity, major: int) -> Tree:
    joined, rack = spec.fabric != NA, spec.fabric == "rack"
    if major < 525:
        return []
    cluster = _uuid(gpu.rack) if rack else "00000000-0000-0000-0000-000000000000"
    health: Tree = [
        ("bandwidth", "Full" if rack else NA),
        ("route_recovery_in_progress", "False" if rack else NA),
        ("route_unhealthy", "False" if rack else NA),
        ("access_timeout_recovery", "False" if rack else NA),
    ]
    tree: Tree = [
        ("state", "Completed" if joined else NA),
        ("status", "Success" if joined else NA),
    ]
    if major >= 550:
        tree += [
            ("cliqueId", "1" if rack else "0" if joined else NA),
            ("clusterUuid", cluster if joined else NA),
            ("health", health),
        ]
    return [("fabric", tree)]
