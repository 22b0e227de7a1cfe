"""The picture of a terminal is an SVG that loads nothing and shows what was printed."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.support.terminal_picture import picture

DEMO = Path(__file__).parents[2] / "docs" / "images" / "demo.svg"
SVG = "{http://www.w3.org/2000/svg}"


def shown(text: str) -> list[str]:
    return ["".join(line.itertext()) for line in ET.fromstring(text).iter(f"{SVG}text")]


def test_every_line_is_in_the_picture_with_its_class() -> None:
    lines = ["$ kubectl get a <b>", "NAME   READY", "n      True", "", "m      False & more"]
    text = picture(lines, title="t")
    assert shown(text) == [line for line in lines if line]
    classes = [line.get("class") for line in ET.fromstring(text).iter(f"{SVG}text")]
    assert classes == ["command", "head", None, None]
    words = [(one.get("class"), one.text) for one in ET.fromstring(text).iter(f"{SVG}tspan")]
    assert words == [("good", "True"), ("bad", "False")]


def test_the_picture_of_the_demo_shows_the_present_table_and_loads_nothing() -> None:
    text = DEMO.read_text()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    (head,) = [line for line in shown(text) if line.startswith("NAME")]
    columns = "NAME GPUS PRODUCT DRIVER STATE READY REASON HEALTHY DELIVERED LAST READ AGE"
    assert head.split() == columns.split()
