"""The GPU models that the simulated hardware knows, with made-up part numbers and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Model:
    """What differs between the outputs of two GPU models; N/A is spelt as nvidia-smi does."""

    product: str
    architecture: str
    buses: tuple[str, ...]
    """PCI addresses without the function, `DOMAIN:BUS:DEVICE`; as many as the machine has GPUs."""
    instance_type: str
    driver: str
    cuda: str
    board_part: str
    chip_part: str
    vbios: str
    device_id: str
    memory_mib: int
    power_w: int
    serial_prefix: str | None
    """First digits of a serial; None for a board that reports none."""
    gpus_per_board: int = 1
    """GPUs that share a serial: 2 on the boards of a GB200."""
    chassis: str = "N/A"
    """Text of chassis_serial_number: N/A, empty, or `rack` for the serial of an NVL72."""
    fabric: str = "N/A"
    """`none`: not joined (an all-zero cluster UUID); `rack`: the clique of an NVL72."""
    brand: str = "NVIDIA"
    ecc: bool = True
    row_remapper: bool = True
    """Turing retires pages instead of remapping rows."""

    @property
    def gpus(self) -> int:
        return len(self.buses)


def _buses(*buses: str) -> tuple[str, ...]:
    return tuple(bus if bus.count(":") == 2 else f"00000000:{bus}:00" for bus in buses)


_EIGHT: Final = _buses("53", "64", "75", "86", "97", "A8", "B9", "CA")

MODELS: Final[dict[str, Model]] = {
    "h100": Model(
        product="NVIDIA H100 80GB HBM3",
        architecture="Hopper",
        buses=_EIGHT,
        instance_type="p5.48xlarge",
        driver="570.86.15",
        cuda="12.8",
        board_part="692-2G520-0210-001",
        chip_part="2330-885-A1",
        vbios="96.00.B1.00.01",
        device_id="2330",
        memory_mib=81559,
        power_w=700,
        serial_prefix="165",
        fabric="none",
    ),
    "b200": Model(
        product="NVIDIA B200",
        architecture="Blackwell",
        buses=_EIGHT,
        instance_type="p6-b200.48xlarge",
        driver="575.57.08",
        cuda="12.9",
        board_part="692-2G525-0220-000",
        chip_part="2901-886-A1",
        vbios="97.00.C5.00.03",
        device_id="2901",
        memory_mib=183359,
        power_w=1000,
        serial_prefix="165",
        chassis="",
        fabric="none",
    ),
    "gb200": Model(
        product="NVIDIA GB200",
        architecture="Blackwell",
        buses=_buses("00000008:01:00", "00000009:01:00", "00000018:01:00", "00000019:01:00"),
        instance_type="p6e-gb200.36xlarge",
        driver="570.148.08",
        cuda="12.8",
        board_part="900-2G548-A811-000",
        chip_part="2941-892-A1",
        vbios="97.00.B9.00.69",
        device_id="2941",
        memory_mib=189471,
        power_w=1200,
        serial_prefix="176",
        gpus_per_board=2,
        chassis="rack",
        fabric="rack",
    ),
    "gb300": Model(
        product="NVIDIA GB300",
        architecture="Blackwell",
        buses=_buses("00000008:06:00", "00000009:06:00", "00000018:06:00", "00000019:06:00"),
        instance_type="p6e-gb300.36xlarge",
        driver="615.21.04",
        cuda="13.4",
        board_part="900-2G558-A811-000",
        chip_part="31C2-893-A1",
        vbios="97.10.4A.00.10",
        device_id="31C2",
        memory_mib=284208,
        power_w=1400,
        serial_prefix="178",
        gpus_per_board=2,
        chassis="rack",
        fabric="rack",
    ),
    "a100": Model(
        product="NVIDIA A100-SXM4-80GB",
        architecture="Ampere",
        buses=_buses("10", "16", "49", "4D", "85", "8B", "C5", "C9"),
        instance_type="p4de.24xlarge",
        driver="535.104.05",
        cuda="12.2",
        board_part="692-2G506-0215-002",
        chip_part="20B2-895-A1",
        vbios="92.00.45.00.05",
        device_id="20B2",
        memory_mib=81920,
        power_w=400,
        serial_prefix="156",
    ),
    "t4": Model(
        product="Tesla T4",
        architecture="Turing",
        buses=_buses("00000000:00:1E"),
        instance_type="g4dn.xlarge",
        driver="595.91.07",
        cuda="13.2",
        board_part="900-2G183-A800-001",
        chip_part="1EB8-895-A1",
        vbios="90.04.96.00.02",
        device_id="1EB8",
        memory_mib=15360,
        power_w=70,
        serial_prefix="132",
        row_remapper=False,
    ),
    "rtx3060": Model(
        product="NVIDIA GeForce RTX 3060",
        brand="GeForce",
        architecture="Ampere",
        buses=_buses("2D"),
        instance_type="workstation",
        driver="570.124.04",
        cuda="12.8",
        board_part="N/A",
        chip_part="2487-150-A1",
        vbios="94.06.14.00.2E",
        device_id="2487",
        memory_mib=12288,
        power_w=170,
        serial_prefix=None,
        ecc=False,
        row_remapper=False,
    ),
}
