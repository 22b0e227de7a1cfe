"""The parts of a GPU's `nvidia-smi -q -x` that say nothing about which GPU it is.

A parser has to skip them, and they give the output its real size.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from gpuid_operator.localcluster.smi_models import Model

Tree: TypeAlias = "list[tuple[str, str | Tree]]"

NA: Final = "N/A"
DEPRECATED: Final = "Requested functionality has been deprecated"


def when(condition: bool, element: tuple[str, str | Tree]) -> Tree:
    return [element] if condition else []


def _all(value: str, *tags: str) -> Tree:
    return [(tag, value) for tag in tags]


def mig_devices(spec: Model) -> Tree:
    """Two devices; real output gives them no UUID either."""
    return [("mig_device", _mig_device(spec, index)) for index in range(2)]


def _mig_device(spec: Model, index: int) -> Tree:
    size = spec.memory_mib // 4
    engines: Tree = [
        ("multiprocessor_count", "28"),
        ("copy_engine_count", "2"),
        *_all("0", "encoder_count", "decoder_count", "ofa_count", "jpg_count"),
    ]
    return [
        ("index", str(index)),
        ("gpu_instance_id", str(index + 3)),
        ("compute_instance_id", "0"),
        ("device_attributes", [("shared", engines)]),
        ("ecc_error_count", [("volatile_count", [("sram_uncorrectable", "0")])]),
        ("fb_memory_usage", _memory(size, 12)),
    ]


def inforom(spec: Model, major: int) -> Tree:
    known = spec.serial_prefix is not None
    tree: Tree = [
        (
            "inforom_version",
            [
                ("img_version", f"G{spec.board_part[5:8]}.0200.00.06" if known else "G001.0000.03"),
                ("oem_object", "2.1"),
                ("ecc_object", "7.16" if spec.ecc else NA),
                ("pwr_object", NA),
            ],
        )
    ]
    flush = [("latest_timestamp", "2026/05/30 08:15:02.117"), ("latest_duration", "84210 us")]
    tree += when(major >= 550, ("inforom_bbx_flush", [*flush]))
    return [*tree, ("gpu_operation_mode", _all(NA, "current_gom", "pending_gom"))]


def modes(spec: Model, driver: str, major: int) -> Tree:
    reset = "No" if major < 570 else DEPRECATED
    return [
        *when(major >= 550, ("c2c_mode", "Enabled" if spec.chassis == "rack" else "Disabled")),
        (
            "gpu_virtualization_mode",
            [
                ("virtualization_mode", "Pass-Through"),
                *_all(NA, "host_vgpu_mode", "vgpu_heterogeneous_mode"),
            ],
        ),
        *when(
            major < 590,
            ("gpu_reset_status", _all(reset, "reset_required", "drain_and_reset_recommended")),
        ),
        *when(major >= 570, ("gpu_recovery_action", "None")),
        ("gsp_firmware_version", driver),
        ("ibmnpu", [("relaxed_ordering_mode", NA)]),
    ]


def pci(spec: Model, address: str) -> Tree:
    domain, bus, rest = address.split(":")
    generations = _all(
        "5", "max_link_gen", "current_link_gen", "device_current_link_gen", "max_device_link_gen"
    )
    return [
        (
            "pci",
            [
                ("pci_bus", bus),
                ("pci_device", rest[:2]),
                ("pci_domain", domain[4:]),
                ("pci_base_class", "3"),
                ("pci_sub_class", "2"),
                ("pci_device_id", f"{spec.device_id}10DE"),
                ("pci_bus_id", address),
                ("pci_sub_system_id", "17F410DE"),
                (
                    "pci_gpu_link_info",
                    [
                        ("pcie_gen", [*generations, ("max_host_link_gen", NA)]),
                        ("link_widths", _all("16x", "max_link_width", "current_link_width")),
                    ],
                ),
                ("pci_bridge_chip", _all(NA, "bridge_chip_type", "bridge_chip_fw")),
                *_all("0", "replay_counter", "replay_rollover_counter"),
                *_all("441 KB/s", "tx_util", "rx_util"),
                *_all(NA, "atomic_caps_outbound", "atomic_caps_inbound"),
            ],
        )
    ]


def _memory(total: int, used: int) -> Tree:
    return [
        ("total", f"{total} MiB"),
        ("reserved", "0 MiB"),
        ("used", f"{used} MiB"),
        ("free", f"{total - used} MiB"),
    ]


def load(spec: Model) -> Tree:
    reasons = _all(
        "Not Active",
        "clocks_event_reason_applications_clocks_setting",
        "clocks_event_reason_sw_power_cap",
        "clocks_event_reason_hw_slowdown",
        "clocks_event_reason_hw_thermal_slowdown",
        "clocks_event_reason_hw_power_brake_slowdown",
        "clocks_event_reason_sync_boost",
        "clocks_event_reason_sw_thermal_slowdown",
        "clocks_event_reason_display_clocks_setting",
    )
    units = ("gpu", "memory", "encoder", "decoder", "jpeg", "ofa")
    sessions = _all("0", "session_count", "average_fps", "average_latency")
    return [
        ("fan_speed", NA),
        ("performance_state", "P0"),
        ("clocks_event_reasons", [("clocks_event_reason_gpu_idle", "Active"), *reasons]),
        ("sparse_operation_mode", "Disabled"),
        ("fb_memory_usage", _memory(spec.memory_mib, 4)),
        ("bar1_memory_usage", _memory(131072, 1)),
        ("cc_protected_memory_usage", _memory(0, 0)),
        ("compute_mode", "Default"),
        (
            "utilization",
            _all("0 %", *(f"{unit}_util" for unit in units)),
        ),
        ("encoder_stats", sessions),
        ("fbc_stats", sessions),
        ("dram_encryption_mode", _all(NA, "current_dram_encryption", "pending_dram_encryption")),
    ]


def errors(spec: Model, major: int) -> Tree:
    zero, mode = ("0", "Enabled") if spec.ecc else (NA, NA)
    split = ("sram_uncorrectable_parity", "sram_uncorrectable_secded")
    uncorrectable = split if spec.row_remapper and major >= 550 else ("sram_uncorrectable",)
    counters = _all(
        zero, "sram_correctable", *uncorrectable, "dram_correctable", "dram_uncorrectable"
    )
    sources = ("sram_l2", "sram_sm", "sram_microcontroller", "sram_pcie", "sram_other")
    threshold = when(len(uncorrectable) > 1, ("sram_threshold_exceeded", "No" if spec.ecc else NA))
    pages = "0" if spec.ecc and not spec.row_remapper else NA
    pending = "No" if spec.ecc and not spec.row_remapper else NA
    retired = [("retired_count", pages), ("retired_pagelist", "" if pages == "0" else NA)]
    bins = ("max", "high", "partial", "low", "none")
    remapped: Tree = [
        *_all("0", "remapped_row_corr", "remapped_row_unc"),
        *_all("No", "remapped_row_pending", "remapped_row_failure"),
        (
            "row_remapper_histogram",
            [
                (f"row_remapper_histogram_{name}", f"{2560 if name == 'max' else 0} bank(s)")
                for name in bins
            ],
        ),
    ]
    return [
        ("ecc_mode", _all(mode, "current_ecc", "pending_ecc")),
        (
            "ecc_errors",
            [
                ("volatile", counters),
                ("aggregate", [*counters, *threshold]),
                *when(
                    len(uncorrectable) > 1,
                    ("aggregate_uncorrectable_sram_sources", _all(zero, *sources)),
                ),
            ],
        ),
        (
            "retired_pages",
            [
                ("multiple_single_bit_retirement", [*retired]),
                ("double_bit_retirement", [*retired]),
                *_all(pending, "pending_blacklist", "pending_retirement"),
            ],
        ),
        ("remapped_rows", remapped if spec.row_remapper else NA),
    ]


def sensors(spec: Model, index: int) -> Tree:
    limits = _all(
        f"{spec.power_w}.00 W",
        "current_power_limit",
        "requested_power_limit",
        "default_power_limit",
    )
    draw = _all(f"{spec.power_w // 10 + index}.42 W", "average_power_draw", "instant_power_draw")
    power = [*draw, *limits, ("min_power_limit", "100.00 W"), ("max_power_limit", limits[0][1])]
    clocks = _all("1980 MHz", "graphics_clock", "sm_clock", "mem_clock", "video_clock")
    applied = _all("1980 MHz", "graphics_clock", "mem_clock")
    return [
        (
            "temperature",
            [
                ("gpu_temp", f"{31 + index} C"),
                ("gpu_temp_tlimit", "54 C"),
                ("gpu_temp_max_tlimit_threshold", "-8 C"),
                ("gpu_temp_slow_tlimit_threshold", "-2 C"),
                ("gpu_temp_max_gpu_tlimit_threshold", "0 C"),
                ("gpu_target_temperature", NA),
                ("memory_temp", f"{38 + index} C"),
                ("gpu_temp_max_mem_tlimit_threshold", "0 C"),
            ],
        ),
        ("supported_gpu_target_temp", _all(NA, "gpu_target_temp_min", "gpu_target_temp_max")),
        ("gpu_power_readings", [("power_state", "P0"), *power]),
        ("gpu_memory_power_readings", _all(NA, "average_power_draw", "instant_power_draw")),
        ("module_power_readings", [("power_state", "P0"), *((tag, NA) for tag, _ in power)]),
        ("power_smoothing", "Insufficient Permissions" if spec.chassis == "rack" else NA),
        (
            "power_profiles",
            _all(NA, "power_profile_requested_profiles", "power_profile_enforced_profiles"),
        ),
        ("clocks", clocks),
        ("applications_clocks", applied),
        ("default_applications_clocks", applied),
        ("deferred_clocks", [("mem_clock", NA)]),
        ("max_clocks", clocks),
        ("max_customer_boost_clocks", [("graphics_clock", "1980 MHz")]),
        ("clock_policy", _all(NA, "auto_boost", "auto_boost_default")),
        ("voltage", [("graphics_volt", NA)]),
    ]


TAIL: Final[Tree] = [
    ("processes", []),
    ("accounted_processes", []),
    ("capabilities", [("egm", "disabled")]),
]
