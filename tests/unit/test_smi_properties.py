"""Properties of the nvidia-smi parser over bytes that nobody wrote down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from gpuid_operator.api.inventory import GPU
from gpuid_operator.plan.failure import FailureReason, ReadError
from gpuid_operator.plan.smi import Reading, parse
from tests.support.smi_samples import GENERATIONS, TWO, Card, Generation, output, process

SAMPLES = [output(*TWO, generation=generation) for generation in GENERATIONS]
PIECES = st.sampled_from(
    [b"<nvidia_smi_log>", b"</nvidia_smi_log>", b'<gpu id="0000:01:00.0">', b"</gpu>", b"<?xml ?>",
     b"<attached_gpus>0</attached_gpus>", b"<processes>", b"</processes>", b"<!--", b"-->", b"&a;",
     b"<uuid>", b"</uuid>", b"GPU is lost", b"<![CDATA[", b"]]>", b"\xff", b"\x00", b"[<!ENTITY"]
)  # fmt: skip


def attempt(
    stdout: bytes, *, exit_code: int | None = 0, stderr: bytes = b""
) -> Reading | ReadError:
    try:
        return parse(stdout, exit_code=exit_code, stderr=stderr)
    except ReadError as error:
        assert error.message
        assert error.message.isprintable()
        assert len(error.message) <= 1024
        return error


def holds(gpu: GPU) -> bool:
    """Whether the bounds of the model hold for what was read."""
    return GPU.model_validate(gpu.model_dump()) == gpu


@given(
    stdout=st.binary() | st.lists(PIECES | st.binary(max_size=9), max_size=20).map(b"".join),
    stderr=st.binary(max_size=60),
    exit_code=st.none() | st.integers(0, 255),
)
def test_no_bytes_raise_anything_but_a_read_error(
    stdout: bytes, stderr: bytes, exit_code: int | None
) -> None:
    result = attempt(stdout, exit_code=exit_code, stderr=stderr)
    if isinstance(result, Reading):
        assert all(map(holds, result.gpus))
        assert result.gpus or b"<attached_gpus>0</attached_gpus>" in stdout


@pytest.mark.parametrize("sample", SAMPLES, ids=[g.name for g in GENERATIONS])
def test_a_document_cut_at_any_byte_is_no_reading(sample: bytes) -> None:
    for end in range(len(sample.rstrip())):
        result = attempt(sample[:end])
        assert isinstance(result, ReadError), end
        assert result.reason in (FailureReason.INCOMPLETE, FailureReason.UNPARSABLE), end


@given(sample=st.sampled_from(SAMPLES), data=st.data())
def test_a_document_that_lost_its_middle_has_no_gpu_of_two_halves(
    sample: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(sample)))
    end = data.draw(st.integers(start, len(sample)))
    cut = sample[:start] + sample[end:]
    result = attempt(cut)
    if isinstance(result, Reading) and b"<attached_gpus>2</attached_gpus>" in cut:
        assert len(result.gpus) == len(TWO)


@given(sample=st.sampled_from(SAMPLES), data=st.data())
def test_changed_bytes_never_make_more_gpus(sample: bytes, data: st.DataObject) -> None:
    changed = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sample) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    result = attempt(bytes(changed))
    if isinstance(result, Reading):
        assert len(result.gpus) <= len(TWO)
        assert all(map(holds, result.gpus))


@given(sample=st.sampled_from(SAMPLES), data=st.data())
def test_deleted_elements_leave_each_fact_of_identity_or_nothing(
    sample: bytes, data: st.DataObject
) -> None:
    root = etree.fromstring(sample)
    inner = [e for e in root.iter() if e is not root and e.tag != "attached_gpus"]
    for element in data.draw(st.lists(st.sampled_from(inner), unique=True, min_size=1, max_size=5)):
        element.getparent().remove(element)
    deleted = etree.tostring(root.getroottree())
    result = attempt(deleted)
    if len(root.findall("gpu")) < len(TWO):
        assert isinstance(result, ReadError)
        assert result.reason is FailureReason.INCOMPLETE
        return
    assert isinstance(result, Reading)
    for gpu, whole in zip(result.gpus, parse(sample).gpus, strict=True):
        assert gpu.uuid in (whole.uuid, None)
        assert gpu.serial in (whole.serial, None)
        assert gpu.pci_address == whole.pci_address
        assert gpu.chassis_serial in (whole.chassis_serial, None)


WORD = st.text(
    st.characters(codec="utf-8", categories=("Lu", "Ll", "Nd", "Pd")), min_size=1, max_size=128
).map(lambda word: f"x{word}"[:128])
NUMBER = st.integers(0, 10**18 - 1)
CARDS = st.builds(
    Card,
    id=st.tuples(
        st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7)
    ).map(lambda a: f"{a[0]:08x}:{a[1]:02X}:{a[2]:02x}.{a[3]}"),
    uuid=st.uuids().map(lambda u: f"GPU-{u}"),
    serial=WORD,
    product=WORD,
    chassis=WORD,
    cluster=WORD,
    slot=NUMBER.map(str),
    tray=NUMBER.map(str),
    clique=NUMBER.map(str),
    dram=st.integers(0, 10**9).map(str),
    row_pending=st.sampled_from(["Yes", "No"]),
    processes=st.binary(max_size=40).filter(lambda b: b"<" not in b).map(process),
)


@given(
    cards=st.lists(CARDS, max_size=9, unique_by=(lambda c: c.uuid, lambda c: str(c.id).upper())),
    generation=st.sampled_from([g for g in GENERATIONS if g.platform_info]),
)
def test_what_is_printed_is_what_is_read(cards: list[Card], generation: Generation) -> None:
    gpus = parse(output(*cards, generation=generation)).gpus
    assert [g.pci_address for g in gpus] == sorted(str(c.id).upper() for c in cards)
    for gpu in gpus:
        card = cards[gpu.index or 0]
        assert (gpu.uuid, gpu.serial, gpu.product) == (card.uuid, card.serial, card.product)
        assert (gpu.chassis_serial, gpu.slot, gpu.tray) == (
            card.chassis,
            int(card.slot or 0),
            int(card.tray or 0),
        )
        assert gpu.fabric is not None
        assert (gpu.fabric.cluster_uuid, gpu.fabric.clique_id) == (
            card.cluster,
            int(card.clique or 0),
        )
        assert gpu.health is not None
        assert gpu.health.ecc_uncorrected == int(card.dram or 0) + 5
        assert gpu.health.remapped_rows_pending is (card.row_pending == "Yes")
