"""The fields of a status that summarize GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from gpuid_operator.api.inventory import GPU
from gpuid_operator.api.values import truncate

MAX_PRODUCT: Final = 512


def summary(gpus: Sequence[GPU]) -> dict[str, Any]:
    """The fields of the status that summarize its GPUs."""
    return {
        "gpu_count": len(gpus),
        "product": joined_products(gpu.product for gpu in gpus),
        "serials": _unique(gpu.serial for gpu in gpus) or None,
        "chassis": _unique(gpu.chassis_serial for gpu in gpus) or None,
    }


def joined_products(products: Iterable[str | None]) -> str | None:
    """Unique products as `status.product` has them; None if there are none."""
    return truncate(", ".join(_unique(products)), MAX_PRODUCT) or None


def _unique(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value})
