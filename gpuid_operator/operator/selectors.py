"""The grammar of label selectors: what the API server accepts as `labelSelector`."""

from __future__ import annotations

import re
from typing import Final

ALLOWED: Final = (
    "a label selector such as app=nvidia-device-plugin-daemonset, tier!=test, name in (a, b), !old"
)

_NAME: Final = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL: Final = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_KEY: Final = rf"(?:(?=[^/]{{1,253}}/){_LABEL}(?:\.{_LABEL})*/)?{_NAME}"
_VALUE: Final = rf"(?:{_NAME})?"
_VALUES: Final = rf"\((?!\s*\))\s*{_VALUE}\s*(?:,\s*{_VALUE}\s*)*\)"
_REQUIREMENT: Final = re.compile(
    rf"""\s*(?:
      !\s*{_KEY}
    | {_KEY}\s*(?:==|=|!=)\s*{_VALUE}
    | {_KEY}\s+(?:in|notin)\s*{_VALUES}
    | {_KEY}\s*[<>]\s*[0-9]{{1,18}}
    | {_KEY}
    )\s*(?:,|$)""",
    re.VERBOSE,
)


def check_selector(text: str) -> str:
    """Return `text` unchanged. Raises ValueError, with what is allowed, if the API server would
    reject the selector or it is empty, which selects everything.
    """
    end = 0
    while end < len(text):
        requirement = _REQUIREMENT.match(text, end)
        if requirement is None:
            raise ValueError(ALLOWED)
        end = requirement.end()
    if not text.strip() or text.rstrip().endswith(","):
        raise ValueError(ALLOWED)
    return text
