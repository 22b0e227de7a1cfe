"""What `nvidia-smi -q -x` prints, by the traps that real outputs have set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpuid_operator.api.inventory import GPU, Fabric, GPUHealth, GPUState
from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.plan.smi import Reading, parse
from tests.support.smi_samples import (  # fmt: skip
    GENERATIONS,
    NO_DOCTYPE,
    R340,
    R470,
    R535,
    R570,
    R595,
    R615,
    TWO,
    Card,
    Generation,
    only,
    output,
    process,
    refusal,
)

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "smi"


# Generations


def test_every_fact_of_a_current_driver() -> None:
    assert parse(output(Card())) == Reading(
        driver_version="570.148.08",
        cuda_version="12.8",
        gpus=(
            GPU(
                uuid="GPU-11111111-2222-3333-4444-555555555501",
                serial="1650000000017",
                pci_address="00000000:29:00.0",
                index=0,
                product="NVIDIA TEST100",
                architecture="Hopper",
                board_part_number="692-2T520-0200-000",
                gpu_part_number="2330-885-A1",
                vbios="96.00.A5.00.01",
                chassis_serial="1820000000042",
                slot=15,
                tray=5,
                host_id=1,
                module_id=2,
                fabric=Fabric(cluster_uuid="aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", clique_id=2),
                mig="Disabled",
                virtualization="Pass-Through",
                state=GPUState.OK,
                health=GPUHealth(
                    recovery_action="None",
                    ecc_uncorrected=8,
                    remapped_rows_pending=False,
                    remapped_rows_failed=False,
                ),
            ),
        ),
    )


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.name)
def test_no_generation_changes_the_identity(generation: Generation) -> None:
    reading = parse(output(*TWO, generation=generation))
    assert reading.driver_version == generation.driver
    assert reading.cuda_version == generation.cuda
    assert [(g.uuid, g.serial, g.pci_address, g.module_id) for g in reading.gpus] == [
        ("GPU-11111111-2222-3333-4444-555555555501", "1650000000017", "00000000:29:00.0", 2),
        ("GPU-11111111-2222-3333-4444-555555555502", "1650000000017", "00000000:3F:00.0", 1),
    ]
    assert {g.board_part_number for g in reading.gpus} == {"692-2T520-0200-000"}
    assert {g.state for g in reading.gpus} == {GPUState.OK}


@pytest.mark.parametrize(
    ("generation", "chip"),
    [(R340, None), (R470, None), (R535, "2330-885-A1"), (R570, "2330-885-A1"),
     (R595, "2330-885-A1"), (NO_DOCTYPE, "2330-885-A1"), (replace(R470, dtd=None), None)],
)  # fmt: skip
def test_gpu_part_number_is_the_chips_from_dtd_v12(generation: Generation, chip: str) -> None:
    gpu = only(output(Card(), generation=generation))
    assert (gpu.board_part_number, gpu.gpu_part_number) == ("692-2T520-0200-000", chip)


def test_a_chip_part_number_never_stands_for_a_missing_board_part_number() -> None:
    gpu = only(output(Card(board_part="N/A")))
    assert (gpu.board_part_number, gpu.gpu_part_number) == (None, "2330-885-A1")


@pytest.mark.parametrize(
    ("generation", "total"), [(R340, 3), (R470, 7), (R535, 7), (R570, 8)], ids=lambda v: str(v)
)
def test_uncorrectable_errors_are_the_sum_of_the_aggregate(
    generation: Generation, total: int
) -> None:
    health = only(output(Card(), generation=generation)).health
    assert health is not None
    assert health.ecc_uncorrected == total


def test_uncorrectable_errors_of_both_namings_count_once() -> None:
    both = output(Card()).replace(
        b"<sram_uncorrectable_parity>",
        b"<sram_uncorrectable>5</sram_uncorrectable><sram_uncorrectable_parity>",
    )
    health = only(both).health
    assert health is not None
    assert health.ecc_uncorrected == 5 + 3


@pytest.mark.parametrize("generation", [R340, R470, R570])
def test_ecc_off_is_no_count(generation: Generation) -> None:
    card = Card(dram="N/A", sram="N/A", parity="N/A")
    health = only(output(card, generation=generation)).health
    assert health is not None
    assert health.ecc_uncorrected is None


def test_a_total_of_errors_is_no_count() -> None:
    """As nvidia-smi prints it for a GPU that does not answer."""
    part = b"<device_memory>3</device_memory>"
    printed = output(Card(), generation=R340)
    assert printed.count(part) == 1
    printed = printed.replace(
        part + b"\n<total>3<", b"<device_memory>GPU is lost</device_memory><total>0<"
    )
    assert b"<total>0<" in printed
    assert only(printed).health == GPUHealth(recovery_action="None", retired_pages_pending=None)


def test_the_new_version_names_rule() -> None:
    both = output(Card(), generation=R615).replace(
        b"<kmd_version>", b"<driver_version>1.0</driver_version><kmd_version>"
    )
    assert parse(both).driver_version == "615.10"
    unreadable = both.replace(b"615.10", b"N/A")
    assert parse(unreadable).driver_version == "1.0"


def test_old_drivers_have_neither_fabric_nor_platform() -> None:
    gpu = only(output(Card(), generation=R470))
    assert (gpu.fabric, gpu.chassis_serial, gpu.slot, gpu.tray, gpu.host_id) == (None,) * 5


def test_module_id_of_either_place() -> None:
    moved = output(Card(module="N/A")).replace(
        b"<serial>", b"<gpu_module_id>4</gpu_module_id><serial>"
    )
    assert only(moved).module_id == 4


# Missing values


@pytest.mark.parametrize(
    "spelling",
    [None, "", "  \n ", "N/A", "[N/A]", "n/a", "Requested functionality has been deprecated",
     "Insufficient Permissions", "[Insufficient Permissions]", "Unknown Error", "[Unknown Error]",
     "Not Supported", "ERR!", "Uninitialized", "Corrupted infoROM", "Driver Not Loaded", "No data",
     "GPU access blocked by the operating system", "System is not in ready state"],
)  # fmt: skip
def test_a_missing_value_is_an_absent_field(spelling: str | None) -> None:
    names = [
        "serial", "product", "architecture", "vbios", "board_part", "gpu_part", "chassis", "slot",
        "tray", "host", "module", "cluster", "clique", "mig", "virtualization", "recovery",
        "reset_required", "dram", "sram", "parity", "row_pending", "row_failure", "pages_pending",
    ]  # fmt: skip
    gpu = only(output(replace(Card(), **dict.fromkeys(names, spelling))))
    assert gpu.to_json() == {
        "uuid": "GPU-11111111-2222-3333-4444-555555555501",
        "pciAddress": "00000000:29:00.0",
        "index": 0,
        "state": "OK",
    }


def test_all_zeros_are_no_identifier_but_a_uuid_is_taken_as_printed() -> None:
    zeros = "00000000-0000-0000-0000-000000000000"
    gpu = only(
        output(
            Card(
                uuid=f"GPU-{zeros}",
                serial="0000000000000",
                board_part="000-00000-0000-000",
                gpu_part="0000-000-00",
                chassis="0",
                cluster=zeros,
                clique="0",
            )
        )
    )
    assert gpu.uuid == f"GPU-{zeros}"
    assert (gpu.serial, gpu.board_part_number, gpu.gpu_part_number) == (None, None, None)
    assert (gpu.chassis_serial, gpu.fabric) == (None, None)


def test_a_fabric_without_a_readable_clique() -> None:
    assert only(output(Card(clique="N/A"))).fabric == Fabric(
        cluster_uuid="aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
    )


@pytest.mark.parametrize("number", ["-1", "0x0f", "1.5", "15 of 16", "²", "9" * 19])
def test_a_number_that_is_none_is_absent(number: str) -> None:
    gpu = only(output(Card(slot=number, dram=number, sram=number, parity=number)))
    assert gpu.slot is None
    assert gpu.health is not None
    assert gpu.health.ecc_uncorrected is None


def test_health_flags() -> None:
    gpu = only(
        output(
            Card(row_pending="Yes", row_failure="Yes", pages_pending="Yes", recovery="GPU Reset")
        )
    )
    assert gpu.health == GPUHealth(
        recovery_action="GPU Reset",
        ecc_uncorrected=8,
        remapped_rows_pending=True,
        remapped_rows_failed=True,
        retired_pages_pending=True,
    )


@pytest.mark.parametrize(
    ("printed", "kept"), [("Enabled", "Enabled"), ("Disabled", "Disabled"), ("Pending", None)]
)
def test_mig(printed: str, kept: str | None) -> None:
    assert only(output(Card(mig=printed))).mig == kept


def test_values_are_clipped_and_printable() -> None:
    gpu = only(output(Card(product="A" * 500, virtualization="a\u0085\tb\u200bc", vbios="é" * 200)))
    assert gpu.product == "A" * 128
    assert gpu.virtualization == "a bc"
    assert gpu.vbios == "é" * 64  # of two bytes each


def test_only_a_whole_value_is_a_value() -> None:
    inner = output(Card()).replace(b"1650000000017", b"16500<x/>00000017")
    assert only(inner).serial is None
    comment = output(Card()).replace(b"1650000000017", b"16500<!-- board -->00000017")
    assert only(comment).serial == "1650000000017"


def test_the_first_of_an_element_that_comes_twice_counts() -> None:
    twice = output(Card()).replace(b"</gpu>", b"<serial>666</serial></gpu>")
    assert only(twice).serial == "1650000000017"


def test_mig_devices_give_no_identity() -> None:
    mig = output(Card(mig="Enabled")).replace(
        b"<mig_devices>\nNone\n",
        b"<mig_devices>\n<mig_device><index>0</index><serial>9</serial><uuid>MIG-1</uuid>"
        b"<ecc_error_count><volatile_count><sram_uncorrectable>5</sram_uncorrectable>"
        b"</volatile_count></ecc_error_count></mig_device>\n",
    )
    gpu = only(mig)
    assert (gpu.uuid, gpu.serial) == (
        "GPU-11111111-2222-3333-4444-555555555501",
        "1650000000017",
    )
    assert gpu.health is not None
    assert gpu.health.ecc_uncorrected == 8


# PCI addresses


@pytest.mark.parametrize(
    ("printed", "address"),
    [
        ("00000000:29:00.0", "00000000:29:00.0"),
        ("0000:3f:00.0", "00000000:3F:00.0"),
        ("0018:9c:1e.1", "00000018:9C:1E.1"),
        ("000A000b:01:00.0", "000A000B:01:00.0"),
        ("29:00.0", "00000000:29:00.0"),
        ("29:00", None),
        ("0", None),
        ("N/A", None),
        (None, None),
    ],
)
def test_pci_addresses_have_one_form(printed: str | None, address: str | None) -> None:
    assert only(output(Card(id=printed))).pci_address == address


def test_the_pci_element_serves_where_the_attribute_is_missing() -> None:
    assert only(output(Card()).replace(b' id="00000000:29:00.0"', b"")).pci_address == (
        "00000000:29:00.0"
    )


def test_gpus_are_in_pci_order_with_the_index_of_the_output() -> None:
    cards = [
        Card(id=address, uuid=f"GPU-{n}")
        for n, address in enumerate(["00000001:01:00.0", "N/A", "0000:A0:00.0", "0000:9f:00.0"])
    ]
    assert [(g.uuid, g.index) for g in parse(output(*cards)).gpus] == [
        ("GPU-3", 3), ("GPU-2", 2), ("GPU-0", 0), ("GPU-1", 1),
    ]  # fmt: skip


# State


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("GPU is lost", GPUState.LOST),
        ("[GPU is lost]", GPUState.LOST),
        ("GPU is lost.  Reboot the system to recover this GPU", GPUState.LOST),
        ("GPU requires reset", GPUState.RESET_REQUIRED),
        ("[GPU requires reset]", GPUState.RESET_REQUIRED),
        ("GPU is inaccessible", GPUState.UNKNOWN),
        ("Unknown Error", GPUState.OK),
    ],
)
def test_the_state_is_in_any_value_and_the_identity_stays(text: str, state: GPUState) -> None:
    sick = replace(TWO[0], temperature=text, vbios=text, module=text, dram=text, recovery=text)
    first, second = parse(output(sick, TWO[1])).gpus
    assert (first.state, second.state) == (state, GPUState.OK)
    assert (first.uuid, first.serial) == (TWO[0].uuid, TWO[0].serial)
    assert (first.vbios, first.module_id) == (None, None)
    assert first.health is not None
    assert first.health.recovery_action is None


@pytest.mark.parametrize(
    ("text", "state"),
    [("GPU is lost", GPUState.LOST), ("Unknown Error", GPUState.UNKNOWN), ("", GPUState.UNKNOWN)],
)
def test_a_body_of_a_text_alone(text: str, state: GPUState) -> None:
    body = f'<gpu id="0000:29:00.0">{text}</gpu></nvidia_smi_log>'.encode()
    stdout = output(attached="1").replace(b"</nvidia_smi_log>", body)
    assert only(stdout) == GPU(pci_address="00000000:29:00.0", index=0, state=state)


def test_reset_required_in_its_own_element() -> None:
    assert only(output(Card(reset_required="Yes"))).state is GPUState.RESET_REQUIRED
    assert only(output(Card(reset_required="No"))).state is GPUState.OK


def test_an_unreadable_uuid_is_an_unknown_state() -> None:
    gpu = only(output(Card(uuid="Unknown Error")))
    assert (gpu.uuid, gpu.serial, gpu.state) == (None, "1650000000017", GPUState.UNKNOWN)


def test_an_error_text_of_a_newer_driver_is_no_identity() -> None:
    text = "Some new error"
    gpu = only(output(Card(uuid=text, serial=text, board_part=text, chassis=text, cluster=text)))
    assert (gpu.uuid, gpu.serial, gpu.board_part_number) == (None, None, None)
    assert (gpu.chassis_serial, gpu.fabric, gpu.state) == (None, None, GPUState.UNKNOWN)


def test_a_process_that_is_called_lost_harms_no_gpu() -> None:
    assert only(output(Card(processes=process(b"GPU is lost")))).state is GPUState.OK


# Real outputs, where they are present


def real(name: str) -> bytes:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the real output {name} is not here")
    return path.read_bytes()


def test_real_h100() -> None:
    gpus = parse(real("h100x8_570.86.15_v12.xml")).gpus
    assert len({g.uuid for g in gpus}) == len({g.serial for g in gpus}) == 8
    assert {(g.chassis_serial, g.slot, g.fabric) for g in gpus} == {(None, None, None)}
    assert {g.module_id for g in gpus} == set(range(1, 9))


def test_real_gb200() -> None:
    gpus = parse(real("gb200x4_570.148.08_v12.xml")).gpus
    assert (len({g.uuid for g in gpus}), len({g.serial for g in gpus})) == (4, 2)
    assert {(g.slot, g.tray, g.host_id) for g in gpus} == {(15, 5, 1)}
    assert len({g.chassis_serial for g in gpus}) == 1
    assert [g.fabric and g.fabric.clique_id for g in gpus] == [2, 2, 2, 2]


def test_real_t4() -> None:
    gpu = only(real("t4x1_595.91.07_v13_aws-g4dn.xml"))
    assert gpu.pci_address == "00000000:00:1E.0"
    assert gpu.health == GPUHealth(
        recovery_action="None", ecc_uncorrected=0, retired_pages_pending=False
    )


def test_real_rtx3060() -> None:
    gpu = only(real("rtx3060_570.124.04_v12_serial-NA.xml"))
    assert (gpu.serial, gpu.board_part_number, gpu.mig, gpu.fabric) == (None, None, None, None)
    assert gpu.health == GPUHealth(recovery_action="None")


def test_real_a100_that_lists_fewer_than_it_says() -> None:
    whole = real("a100-80gb-mig_535.54.03_v12.xml")
    assert refusal(whole).reason is FailureReason.INCOMPLETE
    gpu = only(whole.replace(b"<attached_gpus>4<", b"<attached_gpus>1<"))
    assert (gpu.mig, gpu.module_id, gpu.fabric) == ("Enabled", 4, None)
