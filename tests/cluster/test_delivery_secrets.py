"""Secrets of sinks: missing, wrong, not meant for it, rotated, deleted; nothing is restarted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from tests.support.operators import INVENTORIES, Operator, condition, eventually, inventory, status
from tests.support.receivers import TAKEN, Answer, WebService
from tests.support.sink_servers import ENVIRONMENT, SECRETS, booked, of_inventory, policy, secret
from tests.support.smi_fixtures import machine, swapped

PERIODS = {
    "secret_max_age": 0.5,
    "sink_secret_check": 0.5,
}
TOKEN = "a-token-nobody-may-see"
ROTATED = "another-token-nobody-may-see"


@pytest.fixture(scope="module")
def operator(fleet: LocalCluster) -> Iterator[Operator]:
    with Operator(fleet, periods=PERIODS, **ENVIRONMENT) as operator:
        yield operator
        text = "\n".join(str(line) for line in operator.lines())
    assert TOKEN not in text
    assert ROTATED not in text
    assert {line["service"] for line in operator.lines()} == {"gpuid"}


@pytest.fixture
def service() -> Iterator[WebService]:
    with WebService() as service:
        yield service


@pytest.fixture
def guarded() -> Iterator[WebService]:
    """A service that takes records for its token only."""
    with WebService() as service:
        service.answer = demand(TOKEN)
        yield service


def demand(token: str) -> Callable[[dict[str, str], Any], Answer]:
    def answer(headers: dict[str, str], _: object) -> Answer:
        return TAKEN if headers.get("authorization") == f"Bearer {token}" else (401, {})

    return answer


def sees(
    fleet: LocalCluster, node: str, *, open_to: WebService, guarded: WebService, name: str
) -> None:
    """A node of two GPUs whose records go to two sinks, one with a token from a Secret."""
    reference = {"name": name, "key": "token"}
    selector = {"matchLabels": {"test": node}}
    sinks = [open_to.sink("open"), guarded.sink("guarded", tokenSecretRef=reference)]
    policy(fleet, node, sinks, nodeSelector=selector)
    fleet.add_node(node, xml=machine(node), labels={"test": node})


def is_held_up(fleet: LocalCluster, node: str, *, reason: str, words: str, open_to: Any) -> None:
    """Only the one sink does not deliver, and the condition says why."""
    found = status(fleet, node)
    sinks = {sink["name"]: sink for sink in found.get("sinks", ())}
    assert sinks, "nothing is known of the node"
    assert sinks["open"]["pending"] == 0
    assert "lastError" not in sinks["open"]
    assert sinks["guarded"]["pending"] > 0
    assert condition(fleet, node, "Delivered") == ("False", reason)
    (said,) = [one["message"] for one in found["conditions"] if one["type"] == "Delivered"]
    assert words in said
    assert words in sinks["guarded"]["lastError"]
    assert booked(open_to.records).keys() == ids(fleet, node)
    assert TOKEN not in str(found)
    assert ROTATED not in str(found)


def has_all(fleet: LocalCluster, node: str, *services: WebService) -> None:
    assert condition(fleet, node, "Delivered") == ("True", "Delivered")
    for service in services:
        assert booked(service.records).keys() == ids(fleet, node)


def ids(fleet: LocalCluster, node: str) -> set[str]:
    return {record["id"] for record in of_inventory(inventory(fleet, node))}


def change(fleet: LocalCluster, node: str, spare: str) -> None:
    """Another GPU is in the node, and its history says so."""
    before = status(fleet, node)["sequence"]
    xml = fleet.smi_file(node).read_text()
    fleet.write_smi(node, swapped(xml, 1, spare))
    fleet.restart_plugin(node)

    def noticed() -> None:
        assert status(fleet, node)["sequence"] > before

    eventually(noticed)


def create(fleet: LocalCluster, name: str) -> None:
    secret(fleet, name, token=TOKEN)


def no_key(fleet: LocalCluster, name: str) -> None:
    secret(fleet, name, other="x")


def no_label(fleet: LocalCluster, name: str) -> None:
    secret(fleet, name, for_sinks=False, token=TOKEN)


def wrong_host(fleet: LocalCluster, name: str) -> None:
    secret(fleet, name, hosts="cmdb.example.com, localhost.example.com", token=TOKEN)


def right_host(fleet: LocalCluster, name: str) -> None:
    secret(fleet, name, hosts="cmdb.example.com, localhost", token=TOKEN)


def wrong_value(fleet: LocalCluster, name: str) -> None:
    secret(fleet, name, token=ROTATED)


@pytest.mark.parametrize(
    ("breaks", "reason", "words", "repairs"),
    [
        (None, "SecretNotFound", "Secret secret-missing does not exist", create),
        (no_key, "SecretNotFound", "Secret secret-no-key has no key token", create),
        (no_label, "SecretNotAllowed", "Secret secret-no-label is not labeled for sinks", create),
        (
            wrong_host,
            "SecretNotAllowed",
            "Secret secret-wrong-host must not be sent to localhost",
            right_host,
        ),
        (wrong_value, "Refused", "401", create),
    ],
    ids=["missing", "no-key", "no-label", "wrong-host", "wrong-value"],
)
def test_a_secret_holds_up_its_sink_alone(
    fleet: LocalCluster,
    operator: Operator,
    service: WebService,
    guarded: WebService,
    request: pytest.FixtureRequest,
    breaks: Callable[[LocalCluster, str], None] | None,
    reason: str,
    words: str,
    repairs: Callable[[LocalCluster, str], None],
) -> None:
    case = request.node.callspec.id
    name, node = f"secret-{case}", f"gpu-secret-{case}"
    if breaks is not None:
        breaks(fleet, name)
    sees(fleet, node, open_to=service, guarded=guarded, name=name)
    eventually(lambda: is_held_up(fleet, node, reason=reason, words=words, open_to=service))
    assert guarded.records == []
    if reason != "Refused":
        assert guarded.deliveries == [], "nothing may be sent without the secret"
    repairs(fleet, name)
    eventually(lambda: has_all(fleet, node, service, guarded))


def test_a_rotated_secret_is_used_without_a_restart(
    fleet: LocalCluster, operator: Operator, service: WebService, guarded: WebService
) -> None:
    node, name = "gpu-secret-rotated", "secret-rotated"
    create(fleet, name)
    sees(fleet, node, open_to=service, guarded=guarded, name=name)
    eventually(lambda: has_all(fleet, node, service, guarded))
    # The receiver is first; until the Secret follows, what we send is refused.
    guarded.answer = demand(ROTATED)
    change(fleet, node, "gpu-secret-spare-1")
    eventually(lambda: is_held_up(fleet, node, reason="Refused", words="401", open_to=service))
    wrong_value(fleet, name)  # the value that is right by now
    eventually(lambda: has_all(fleet, node, service, guarded))
    # The Secret is first: the value in use is the new one, refused or not.
    guarded.answer = lambda *_: TAKEN
    create(fleet, name)
    eventually(lambda: uses(fleet, node, guarded, TOKEN))
    assert operator.process.poll() is None


def uses(fleet: LocalCluster, node: str, service: WebService, token: str) -> None:
    """A change is sent with this token."""
    before = len(service.deliveries)
    change(fleet, node, f"gpu-secret-spare-{before + 2}")
    eventually(lambda: came(service, before))
    assert service.deliveries[-1].headers["authorization"] == f"Bearer {token}"


def came(service: WebService, before: int) -> None:
    assert len(service.deliveries) > before


def test_a_deleted_secret_is_used_no_more(
    fleet: LocalCluster, operator: Operator, service: WebService, guarded: WebService
) -> None:
    node, name = "gpu-secret-deleted", "secret-deleted"
    create(fleet, name)
    sees(fleet, node, open_to=service, guarded=guarded, name=name)
    eventually(lambda: has_all(fleet, node, service, guarded))
    fleet.client.send(Request("DELETE", f"{SECRETS}/{name}"))

    def held_up() -> None:
        missing = f"Secret {name} does not exist in the namespace of the operator"
        is_held_up(fleet, node, reason="SecretNotFound", words=missing, open_to=service)

    def decided() -> None:
        """For MAX_AGE the value is still known."""
        if condition(fleet, node, "Delivered")[0] == "False":
            held_up()
        has_come = len(guarded.records) == len(service.records)
        assert has_come or condition(fleet, node, "Delivered")[0] == "False"

    for spare in range(20):
        change(fleet, node, f"gpu-secret-deleted-{spare}")
        eventually(decided)
        if len(guarded.records) < len(service.records):
            break
    eventually(held_up)
    create(fleet, name)
    eventually(lambda: has_all(fleet, node, service, guarded))


def test_an_inventory_has_a_sink_of_its_own(
    fleet: LocalCluster, operator: Operator, service: WebService, guarded: WebService
) -> None:
    """It replaces the policy's of its name, with the Secret that its owner names; and it goes."""
    node, name = "gpu-secret-own", "secret-own"
    create(fleet, name)
    policy(
        fleet,
        node,
        [service.sink("cmdb")],
        nodeSelector={"matchLabels": {"test": node}},
    )
    fleet.add_node(node, xml=machine(node), labels={"test": node})
    eventually(lambda: has_all(fleet, node, service))
    reference = {"name": name, "key": "token"}
    own = {"sinks": [guarded.sink("cmdb", tokenSecretRef=reference)]}
    set_spec(fleet, node, own)
    taken = len(service.records)
    change(fleet, node, "gpu-secret-own-1")
    eventually(lambda: has_records(fleet, node, guarded, 2))
    assert len(service.records) == taken
    set_spec(fleet, node, {"sinks": None})
    change(fleet, node, "gpu-secret-own-2")
    eventually(lambda: has_records(fleet, node, service, taken + 2))
    assert len(guarded.records) == 2


def set_spec(fleet: LocalCluster, node: str, spec: dict[str, Any]) -> None:
    """Give the inventory a spec, and wait until it is in force."""
    path = f"{INVENTORIES}/{node}"
    made = fleet.client.send(Request("PATCH", path, {"spec": spec}, content_type=MERGE))

    def observed() -> None:
        assert status(fleet, node)["observedGeneration"] == made["metadata"]["generation"]

    eventually(observed)


def has_records(fleet: LocalCluster, node: str, service: WebService, count: int) -> None:
    assert condition(fleet, node, "Delivered") == ("True", "Delivered")
    assert len(service.records) == count
