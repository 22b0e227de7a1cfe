"""The largest object that the bounds allow stays below what etcd takes."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    CheckStatus,
    Fabric,
    GPUHealth,
    GPUState,
    HistoryType,
    InventoryStatus,
    NodeInfo,
    Source,
)
from gpuid_operator.api.meta import (
    MAX_CHECKS,
    MAX_FROM_TO,
    MAX_GPUS,
    MAX_HISTORY,
    MAX_MESSAGE,
    MAX_PRODUCTS,
    MAX_QUARANTINES_PER_GPU,
    MAX_SINKS,
)
from gpuid_operator.api.policy import Expectation
from gpuid_operator.api.values import encoded_size, fitting
from gpuid_operator.plan import delivery, history, status
from gpuid_operator.plan.checks import kept_output
from gpuid_operator.plan.duplicates import NAMED_NODES, Duplicate
from gpuid_operator.plan.labels import lookup_labels
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.quarantine import Identifiers, QuarantineIndex, QuarantineRule
from gpuid_operator.plan.smi import Reading
from gpuid_operator.plan.smi_values import text_of
from gpuid_operator.plan.status_change import StatusContext, writer_of
from tests.support.node_model import START

ETCD_LIMIT = 1_500_000
"""etcd takes requests of up to 1.5 MiB; the rest is for metadata that others write."""

MANAGED_FIELDS = 20_000
"""The API server's own record of who wrote what: lists are atomic, so it does not grow."""

LONG = 10**18 - 1


def stored(value: Any) -> bytes:
    """JSON as the API server stores it: Go's encoding/json escapes these, too."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def fact(filler: str, number: int) -> str:
    """The longest fact that the parser gives, unique by its number."""
    text = text_of(f"{number:08d}" + filler * 128)
    assert text is not None
    return text


def gpus(filler: str, generation: int) -> tuple[GPU, ...]:
    def gpu(number: int) -> GPU:
        name = fact(filler, generation * MAX_GPUS + number)
        return GPU(
            uuid=name,
            serial=name,
            pci_address=f"{number:08X}:00:00.0",
            index=number,
            product=fact(filler, number),
            architecture=fact(filler, number),
            board_part_number=name,
            gpu_part_number=name,
            vbios=name,
            chassis_serial=name,
            slot=LONG,
            tray=LONG,
            host_id=LONG,
            module_id=LONG,
            fabric=Fabric(cluster_uuid=name, clique_id=LONG),
            mig="Disabled",
            virtualization=name,
            state=GPUState.RESET_REQUIRED,
            health=GPUHealth(
                recovery_action=name,
                ecc_uncorrected=LONG - generation,
                remapped_rows_pending=True,
                remapped_rows_failed=True,
                retired_pages_pending=True,
            ),
        )

    return tuple(gpu(number) for number in range(MAX_GPUS))


def quarantines(filler: str) -> QuarantineIndex:
    """As many as a GPU can be in at a time; each lists every GPU."""
    serials = [fact(filler, number) for number in range(12 * MAX_GPUS)]
    rules = [
        QuarantineRule(
            name=f"{n:02d}" + "q" * 61,
            reason=filler * MAX_MESSAGE,
            parts=frozenset(Identifiers(None, serial, None) for serial in serials),
        )
        for n in range(MAX_QUARANTINES_PER_GPU)
    ]
    return QuarantineIndex(rules)


def largest(filler: str, noise: bytes) -> InventoryStatus:
    """The status of a node whose sinks are away while all its GPUs are replaced again and again by
    others in quarantine, and whose checks fill what they may."""
    sink_filters = tuple(
        SinkFilter(f"{n:02d}" + "s" * 61, "postgres", sightings=n == 0)
        for n in range(2 * MAX_SINKS)
    )
    context = StatusContext(
        policy="p" * 253,
        generation=LONG,
        sink_filters=sink_filters,
        expect=Expectation(gpus=1, products=["p" * 128] * MAX_PRODUCTS),
        duplicates=tuple(
            Duplicate(f"GPU-{n}" + "u" * 120, ("n" * 253,) * NAMED_NODES, more=True)
            for n in range(MAX_GPUS)
        ),
        quarantines=quarantines(filler),
    )
    checks = [
        CheckStatus(
            name=f"{n:02d}" + "c" * 61,
            passed=False,
            transitions=LONG,
            recorded=LONG,
            exit_code=255,
            stdout=kept_output(noise),
            stderr=kept_output(noise),
            pod="p" * 320,
            restarts=LONG,
            last_restart_time=START,
            last_run_time=START,
            last_transition_time=START,
        )
        for n in range(MAX_CHECKS)
    ]
    current = InventoryStatus(checks=checks)
    for generation in range(12):
        current = status.after_read(
            current,
            Reading(fact(filler, generation), fact(filler, 0), gpus(filler, generation)),
            source=Source(
                namespace="n" * 63,
                pod="p" * 253,
                uid="u" * 128,
                container="c" * 63,
                container_id="d" * 256,
            ),
            node=NodeInfo(
                name="n" * 253,
                uid="u" * 128,
                provider_id="/" + "m" * 511,
                machine="m" * 511,
                boot_id="b" * 128,
            ),
            now=START + timedelta(days=generation),
            context=context,
            request="r" * 5000,
        ).status
    for sink_filter in sink_filters:
        current = delivery.after_delivery_failure(
            current, sink_filter, error=filler * 600, now=START, context=context
        ).status
    return current


FILLERS = {"plain": "x", "escaped": "<", "three bytes": "\u4e00", "quoted": '"'}


NOISES = {"control": b"\x01", "<": b"<", "utf-8": b"\xe4\xb8\x80"}
# Facts and outputs of checks do not share a bound, so each kind of either is enough.
PAIRS = [*((filler, "control") for filler in FILLERS), ("plain", "<"), ("plain", "utf-8")]


@pytest.mark.parametrize(
    ("filler", "noise"),
    [(FILLERS[filler], NOISES[noise]) for filler, noise in PAIRS],
    ids=[f"{filler}, {noise}" for filler, noise in PAIRS],
)
def test_the_largest_status_stays_below_the_limit_of_etcd(filler: str, noise: bytes) -> None:
    found = largest(filler, noise * 20_000)
    assert InventoryStatus.model_validate(found.to_json()) == found
    labels = dict.fromkeys(lookup_labels(found), "present")
    size = len(stored(found.to_json())) + len(stored(labels)) + MANAGED_FIELDS
    print(f"largest object: {size} bytes, {len(found.history or ())} entries")
    assert size < ETCD_LIMIT


def test_a_full_history_of_usual_entries_is_kept_whole() -> None:
    """The bound in bytes is for what nobody has seen; 500 real entries are far below it."""
    writer = writer_of(
        InventoryStatus(node=NodeInfo(name="n", machine="i-1234567890abcdef0")), START
    )
    gpu = GPU(
        uuid="GPU-25e04bdf-6a27-0a2d-f989-a9228a03f373",
        serial="1652823054567",
        pci_address="00000000:29:00.0",
        chassis_serial="1821325191344",
        product="NVIDIA GB200",
    )
    log = [
        writer.entry(
            HistoryType.HEALTH_CHANGED,
            gpu,
            from_="x" * MAX_FROM_TO,
            to="x" * MAX_FROM_TO,
            message="x" * MAX_MESSAGE,
        )
        for _ in range(MAX_HISTORY)
    ]
    waiting = {entry.sequence for entry in log}
    assert history.bounded(log, gpus=[gpu], present=True, waiting=waiting, writer=writer) == log
    assert sum(len(stored(entry.to_json())) for entry in log) < history.MAX_HISTORY_BYTES


@pytest.mark.parametrize(
    "text", ["", "plain ÄÖ", '"\\', "\x00\x1f\x7f\b\f\n\r\t", "<a>&b", "\u2028x", "\u4e00😀"]
)
def test_the_size_of_a_text_is_what_it_takes_when_stored(text: str) -> None:
    assert encoded_size(text) == len(stored(text)) - 2


@pytest.mark.parametrize("limit", range(14))
def test_a_text_is_cut_between_characters(limit: int) -> None:
    text = "a<\u4e00b"
    assert fitting(text, limit) == text[: sum(limit >= size for size in (1, 7, 10, 11))]
