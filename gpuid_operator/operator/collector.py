"""Python's garbage collector, which looks for objects in cycles and holds the event loop meanwhile.

The operator allocates objects by the thousand, and hardly any are in cycles. With Python's default
of a look after 700 objects, the collector takes a tenth of the CPU of a cold start.
"""

from __future__ import annotations

import gc
from typing import Final

_YOUNG: Final = 50_000
"""New objects after which the collector looks at them: some 15 ms. A page of a list has half as
many, and drops them all."""
_MIDDLE: Final = 2
"""Such looks after which it looks at what has survived them, too."""
_OLD: Final = 50
"""Those after which it looks at all objects that are not frozen."""


def configure() -> None:
    """Make the collector look rarely."""
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


def freeze() -> None:
    """Never look at the objects of now again: the state of a large cluster has just been loaded.
    What replaces it later is looked at."""
    gc.freeze()


def unfreeze() -> None:
    """Look at all objects again, since they are to be dropped, and those in cycles would stay."""
    gc.unfreeze()
