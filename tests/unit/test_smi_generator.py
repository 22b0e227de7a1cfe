"""The generated nvidia-smi outputs have the properties that readers of real ones meet."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from gpuid_operator.localcluster.smi import generate
from gpuid_operator.localcluster.smi_models import MODELS


def parse(text: str) -> ET.Element:
    return ET.fromstring(text.split("\n", 2)[2])


def texts(root: ET.Element, path: str) -> list[str | None]:
    return [gpu.findtext(path) for gpu in root.iter("gpu")]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_well_formed_and_counts_its_gpus(model: str) -> None:
    root = parse(generate(model, node="gpu-node-0000"))
    assert root.findtext("attached_gpus") == str(MODELS[model].gpus)
    assert len(root.findall("gpu")) == MODELS[model].gpus
    assert [gpu.get("id") for gpu in root.findall("gpu")] == texts(root, "pci/pci_bus_id")


@pytest.mark.parametrize("model", MODELS)
def test_size_is_about_what_was_asked_for(model: str) -> None:
    assert 85_000 < len(generate(model, node="gpu-node-0000")) < 95_000
    assert 355_000 < len(generate(model, node="gpu-node-0000", pad_to=360_000)) < 365_000
    assert "supported_clocks" not in generate(model, node="gpu-node-0000", pad_to=0)


@pytest.mark.parametrize("model", MODELS)
def test_identifiers_are_unique_per_node_and_the_same_again(model: str) -> None:
    first, second = (generate(model, node=f"gpu-node-000{n}") for n in (0, 1))
    assert first == generate(model, node="gpu-node-0000")
    uuids = texts(parse(first), "uuid") + texts(parse(second), "uuid")
    assert len(set(uuids)) == 2 * MODELS[model].gpus
    form = r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert all(re.fullmatch(form, uuid or "") for uuid in uuids)
    serials = set(texts(parse(first), "serial")) & set(texts(parse(second), "serial"))
    assert serials <= {"N/A"}


def test_two_gpus_of_a_gb200_board_share_a_serial_and_a_rack_its_chassis() -> None:
    root = parse(generate("gb200", node="gpu-node-0003"))
    serials = texts(root, "serial")
    assert serials[0] == serials[1] != serials[2] == serials[3]
    chassis = set(texts(root, "platformInfo/chassis_serial_number"))
    neighbour, other_rack = (
        parse(generate("gb200", node=f"gpu-node-00{number}")) for number in (17, 18)
    )
    assert chassis == set(texts(neighbour, "platformInfo/chassis_serial_number"))
    assert chassis != set(texts(other_rack, "platformInfo/chassis_serial_number"))
    assert len(set(texts(root, "fabric/clusterUuid"))) == 1
    assert texts(root, "platformInfo/tray_index") != texts(neighbour, "platformInfo/tray_index")
    assert texts(root, "platformInfo/host_id") == ["1"] * 4


def test_the_ways_to_say_that_there_is_no_chassis() -> None:
    for model, said in (("h100", "N/A"), ("b200", ""), ("a100", None)):
        root = parse(generate(model, node="n"))
        assert set(texts(root, "platformInfo/chassis_serial_number")) == {said}


def test_a_fabric_that_was_not_joined_has_an_all_zero_uuid() -> None:
    root = parse(generate("h100", node="n"))
    assert set(texts(root, "fabric/clusterUuid")) == {"00000000-0000-0000-0000-000000000000"}


def test_a_board_without_a_serial() -> None:
    assert texts(parse(generate("rtx3060", node="n")), "serial") == ["N/A"]


def test_mig_devices_have_no_uuid() -> None:
    root = parse(generate("a100", node="n", mig=True))
    assert len(list(root.iter("mig_device"))) == 16
    assert all(device.find("uuid") is None for device in root.iter("mig_device"))
    none = parse(generate("a100", node="n")).findtext("gpu/mig_devices") or ""
    assert none.strip() == "None"


def test_fields_move_with_the_driver_but_identities_stay() -> None:
    old, new, newest = (
        parse(generate("h100", node="n", driver=driver))
        for driver in ("535.104.05", "570.86.15", "615.21.04")
    )
    assert texts(old, "uuid") == texts(new, "uuid") == texts(newest, "uuid")
    assert old.findtext("gpu/gpu_module_id") == new.findtext("gpu/platformInfo/module_id") == "1"
    assert old.findtext("gpu/gpu_reset_status/reset_required") == "No"
    assert newest.find("gpu/gpu_reset_status") is None
    assert new.findtext("driver_version") == "570.86.15" and newest.find("driver_version") is None
    assert newest.findtext("kmd_version") == "615.21.04"
    board = parse(generate("h100", node="n", driver="470.82.01"))
    assert board.findtext("gpu/gpu_part_number") == new.findtext("gpu/board_part_number")


def test_more_or_fewer_gpus_than_the_machine_has() -> None:
    assert len(set(texts(parse(generate("t4", node="n", gpus=4)), "pci/pci_bus_id"))) == 4
    assert len(parse(generate("h100", node="n", gpus=0)).findall("gpu")) == 0


def test_an_unknown_model_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="is not one of h100, b200"):
        generate("h1000", node="n")
