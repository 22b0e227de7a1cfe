"""Small machines of simulated nodes: what their nvidia-smi prints, and edits of it."""

from __future__ import annotations

import re
from typing import Any

from gpuid_operator.localcluster.smi import generate
from gpuid_operator.plan.smi import parse

_GPU = re.compile(r"\t<gpu id=.*?</gpu>\n\n", re.DOTALL)


def machine(name: str, *, gpus: int = 2, model: str = "h100", driver: str | None = None) -> str:
    """The output of a machine with few GPUs; their identities follow from `name`."""
    return generate(model, node=name, gpus=gpus, driver=driver, pad_to=0)


def uuids(xml: str) -> list[str]:
    return re.findall(r"<uuid>(GPU-[^<]*)", xml)


def serials(xml: str) -> list[str]:
    return re.findall(r"<serial>([^<]*)", xml)


def bodies(xml: str) -> list[str]:
    """The `<gpu>` elements."""
    return _GPU.findall(xml)


def with_bodies(xml: str, gpus: list[str]) -> str:
    """The output with these GPUs in place of its own."""
    head = xml[: xml.index("\t<gpu id=")]
    head = re.sub(r"<attached_gpus>\d+", f"<attached_gpus>{len(gpus)}", head)
    return head + "".join(gpus) + "</nvidia_smi_log>\n"


def without(xml: str, index: int) -> str:
    """The output when a GPU has gone."""
    gpus = bodies(xml)
    del gpus[index]
    return with_bodies(xml, gpus)


def swapped(xml: str, index: int, name: str) -> str:
    """The output when another GPU sits in the place of one: one that a machine `name` has."""
    other = machine(name, gpus=index + 1)
    old, new = ((uuids(text)[index], serials(text)[index]) for text in (xml, other))
    return xml.replace(old[0], new[0]).replace(old[1], new[1])


def moved(xml: str, index: int, bus: str) -> str:
    """The output when a GPU has moved to another PCI bus, such as `5D`."""
    gpus = bodies(xml)
    address = re.search(r'<gpu id="([^"]*)"', gpus[index])
    assert address is not None
    there = re.sub(r":[0-9A-F]{2}:", f":{bus}:", address[1], count=1)
    gpus[index] = gpus[index].replace(address[1], there)
    return with_bodies(xml, gpus)


def lost(xml: str, index: int) -> str:
    """The output when a GPU has fallen off the bus: its identity is all that can be read."""
    gpus = bodies(xml)
    kept = re.compile(r"<(gpu |/gpu|uuid|serial|pci_bus_id|pci|/pci|product_name)")
    lines = [
        line if kept.search(line) else re.sub(r">[^<]+</", ">GPU is lost</", line)
        for line in gpus[index].splitlines(keepends=True)
    ]
    gpus[index] = "".join(lines)
    return with_bodies(xml, gpus)


def facts(xml: str) -> list[dict[str, Any]]:
    """The GPUs as an inventory shows them."""
    return [gpu.to_json() for gpu in parse(xml.encode(), exit_code=0, stderr=b"").gpus]
