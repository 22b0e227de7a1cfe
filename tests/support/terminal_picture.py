"""The picture of a terminal as SVG: text, so that it is small and readable at every size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

_ADVANCE: Final = 8.4
"""Width of a character in pixels at a size of 14; each line is stretched to it, whatever the font
of the reader."""
_LEADING: Final = 21.0
_MARGIN: Final = 24.0
_BAR: Final = 34.0
_STYLE: Final = """\
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace;
  fill: #d6deeb; white-space: pre }
.command { fill: #ffffff; font-weight: bold }
.comment { fill: #8b98ad }
.head { fill: #8ec5ff }
.good { fill: #7ddb8a }
.bad { fill: #ff8a80 }"""
_WORDS: Final = re.compile(r"\b(?:(True|Present|ReadOK|present)|(False|past))\b")


def picture(lines: Sequence[str], *, title: str) -> str:
    """The SVG of a terminal with these lines. Commands begin with `$ `, comments with `# `; a line
    in capitals is the head of a table."""
    width = max(map(len, lines)) * _ADVANCE + 2 * _MARGIN
    height = len(lines) * _LEADING + _BAR + _MARGIN
    rows = [
        f'<text x="{_MARGIN:g}" y="{_BAR + _LEADING * number:g}"'
        f' textLength="{len(line) * _ADVANCE:.1f}" lengthAdjust="spacingAndGlyphs"'
        f"{_class(line)}>{_colored(line)}</text>"
        for number, line in enumerate(lines, start=1)
        if line
    ]
    dots = [
        f'<circle cx="{_MARGIN + 18 * number:g}" cy="19" r="5.5" fill="#3a4660"/>'
        for number in range(3)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
            f' width="{width:.0f}" height="{height:.0f}" role="img" xml:space="preserve">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect width="{width:.0f}" height="{height:.0f}" rx="10" fill="#131a29"/>',
            *dots,
            *rows,
            "</svg>",
            "",
        ]
    )


def _class(line: str) -> str:
    if line.startswith("$ "):
        return ' class="command"'
    if line.startswith("# "):
        return ' class="comment"'
    return ' class="head"' if line.isupper() else ""


def _colored(line: str) -> str:
    text = escape(line)
    if line.startswith(("$ ", "# ")) or line.isupper():
        return text
    return _WORDS.sub(
        lambda match: f'<tspan class="{"good" if match[1] else "bad"}">{match[0]}</tspan>', text
    )
