"""Rights, pod security, availability and network policy in the Helm chart."""

from __future__ import annotations

import pytest

from tests.support.chart_values import EVERYTHING, SINKS
from tests.support.manifests import (
    Manifest,
    environment,
    find,
    footprint,
    pod_specs,
    render,
    rights,
)


def test_rights_are_the_footprint() -> None:
    assert rights(render()) == footprint("gpu-operator")


def test_rights_follow_the_targets() -> None:
    targets = [
        {"namespace": "kube-system", "selector": "k8s-app=nvidia-gpu-device-plugin"},
        {"namespace": "kube-system", "selector": "name=nvidia-device-plugin-ds"},
        {"namespace": "other", "selector": "a=b"},
    ]
    objects = render(values={"targets": targets, "reader": {"enabled": True}})
    assert rights(objects) == footprint("gpuid", "kube-system", "other")


def test_only_restarts_may_delete_pods_and_only_in_the_first_target() -> None:
    targets = [
        {"namespace": "first", "selector": "a=b", "container": "c"},
        {"namespace": "second", "selector": "a=b", "container": "c"},
    ]
    checks: Manifest = {"enabled": True}
    assert rights(render(values={"targets": targets, "checks": checks})) == footprint(
        "first", "second"
    )
    checks = {"enabled": True, "restarts": True}
    objects = render(values={"targets": targets, "checks": checks})
    assert rights(objects) == footprint("first", "second", restarts="first")
    assert environment(objects)["RESTARTS_PER_HOUR"] == "20"
    runner = {"command": "true", "forceRestart": True}
    objects = render(values={"targets": targets[:1], "runner": runner})
    assert rights(objects) == footprint("first", restarts="first")


def test_the_lease_is_where_it_was_asked_for() -> None:
    values = {"leaderElection": {"namespace": "leases"}}
    moved = {item for item in rights(render(values=values)) if item[2] == "leases"}
    assert {item[0] for item in moved} == {"leases"}
    alone = render(values={"leaderElection": {"enabled": False}, "replicaCount": 1})
    assert not {item for item in rights(alone) if item[2] == "leases"}


def test_others_may_only_read() -> None:
    """Permission to write checks is permission to run commands on GPU nodes."""
    aggregated = []
    for item in render(values=EVERYTHING):
        if item["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            assert item["subjects"] == [
                {"kind": "ServiceAccount", "name": "gpuid-operator", "namespace": "gpuid"}
            ]
        assert "aggregationRule" not in item
        labels = {name for name in item["metadata"]["labels"] if "aggregate-to" in name}
        if labels:
            assert labels == {"rbac.authorization.k8s.io/aggregate-to-view"}
            aggregated += item["rules"]
    (rule,) = aggregated
    assert rule["verbs"] == ["get", "list", "watch"]
    assert rule["apiGroups"] == ["gpuid.github.com"]


def test_reading_need_not_be_aggregated() -> None:
    names = {
        name: {item["metadata"]["name"] for item in objects if item["kind"] == "ClusterRole"}
        for name, objects in {
            "default": render(),
            "without": render(values={"rbac": {"aggregateToView": False}}),
        }.items()
    }
    assert names["default"] - names["without"] == {"gpuid-operator-view"}


def test_without_rbac_and_service_account() -> None:
    objects = render(
        values={"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}}
    )
    kinds = {item["kind"] for item in objects}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}
    assert "ServiceAccount" not in kinds
    assert pod_specs(objects)["Deployment/gpuid-operator"]["serviceAccountName"] == "mine"


def test_pods_are_of_the_restricted_level() -> None:
    specs = pod_specs(render(values=EVERYTHING))
    assert set(specs) == {
        "Deployment/gpuid-operator",
        "DaemonSet/gpuid-operator-reader",
        "Pod/gpuid-operator-test",
    }
    for spec in specs.values():
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert "hostNetwork" not in spec
        assert all("hostPath" not in volume for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_only_the_operator_gets_a_token() -> None:
    tokens = {
        name: spec["automountServiceAccountToken"]
        for name, spec in pod_specs(render(values=EVERYTHING)).items()
    }
    assert [name for name, mounted in tokens.items() if mounted] == ["Deployment/gpuid-operator"]


@pytest.mark.parametrize(("replicas", "budgets"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_a_disruption_budget_needs_more_than_one_replica(replicas: int, budgets: int) -> None:
    """With one pod it would hold up every drain."""
    kinds = [item["kind"] for item in render(values={"replicaCount": replicas})]
    assert kinds.count("PodDisruptionBudget") == budgets


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"maxUnavailable": 1}),
        ({"maxUnavailable": 0}, {"maxUnavailable": 0}),
        ({"maxUnavailable": "50%"}, {"maxUnavailable": "50%"}),
        ({"minAvailable": 2}, {"minAvailable": 2}),
        ({"minAvailable": "0%"}, {"minAvailable": "0%"}),
        ({"minAvailable": None, "maxUnavailable": None}, {"maxUnavailable": 1}),
    ],
    ids=str,
)
def test_the_disruption_budget_is_as_wanted(values: Manifest, expected: Manifest) -> None:
    objects = render(values={"replicaCount": 3, "podDisruptionBudget": values})
    spec = find(objects, "PodDisruptionBudget")["spec"]
    assert {key: spec[key] for key in spec if key.endswith("vailable")} == expected


def test_selectors_choose_the_operators_pods_only() -> None:
    objects = render(values=EVERYTHING)
    template = find(objects, "Deployment")["spec"]["template"]
    reader = find(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    spread = template["spec"]["topologySpreadConstraints"]
    selectors = [
        find(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        find(objects, "Service")["spec"]["selector"],
        find(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find(objects, "NetworkPolicy", "gpuid-operator")["spec"]["podSelector"]["matchLabels"],
        *(item["labelSelector"]["matchLabels"] for item in spread),
    ]
    assert len(selectors) == 6
    for selector in selectors:
        assert selector.items() <= template["metadata"]["labels"].items()
        assert not selector.items() <= reader.items()


def tcp_ports(objects: list[Manifest]) -> list[int]:
    """The ports that the operator's pods can connect to, on any host."""
    _, rule, *_ = find(objects, "NetworkPolicy", "gpuid-operator")["spec"]["egress"]
    assert rule.keys() == {"ports"}
    assert {item["protocol"] for item in rule["ports"]} == {"TCP"}
    return [item["port"] for item in rule["ports"]]


def http(endpoint: str) -> Manifest:
    return {"type": "http", "http": {"endpoint": endpoint}}


def s3(**fields: str) -> Manifest:
    return {"type": "s3", "s3": {"bucket": "gpus", "credentialsSecret": "s3", **fields}}


@pytest.mark.parametrize(
    ("exporter", "ports"),
    [
        ({"type": "stdout"}, []),
        (http("https://cmdb.example.com/in"), []),
        (http("https://cmdb.example.com:443/in"), []),
        (http("https://cmdb.example.com:8443/in"), [8443]),
        (http("https://cmdb.example.com:8443"), [8443]),
        (http("https://cmdb.example.com:8443?at=:1"), [8443]),
        (http("http://collector:4318/v1/logs"), [4318]),
        (http("http://cmdb.example.com/in:9"), [80]),
        (http("http://10.0.0.1"), [80]),
        (http("https://[2001:db8::1]/in"), []),
        (http("https://[2001:db8::1]:8443/in"), [8443]),
        (SINKS[2], [5432]),
        ({"type": "postgres", "postgres": {**SINKS[2]["postgres"], "port": 6432}}, [6432]),
        (s3(), []),
        (s3(endpoint="https://s3.example.com"), []),
        (s3(endpoint="https://s3.example.com:9000/"), [9000]),
        (s3(endpoint="http://minio:9000"), [9000]),
        (s3(endpoint="http://minio"), [80]),
    ],
    ids=str,
)
def test_network_policy_lets_the_exporter_through(exporter: Manifest, ports: list[int]) -> None:
    values: Manifest = {"networkPolicy": {"enabled": True}, "exporter": exporter}
    assert tcp_ports(render(values=values)) == [443, 6443, *ports]
    values["networkPolicy"]["egressPorts"] = [9093, 443, 4318]
    wanted = list(dict.fromkeys([443, 6443, *ports, 9093, 4318]))
    assert tcp_ports(render(values=values)) == wanted


def test_network_policy_lets_the_credentials_of_aws_through_where_they_are_used() -> None:
    values: Manifest = {"networkPolicy": {"enabled": True, "extraEgress": [{"to": []}]}}

    def rules(**fields: str) -> list[Manifest]:
        objects = render(values={**values, "exporter": s3(**fields)})
        *_, last = egress = find(objects, "NetworkPolicy", "gpuid-operator")["spec"]["egress"]
        assert last == {"to": []}
        return list(egress[2:-1])

    assert rules() == []
    (rule,) = rules(credentialsSecret="")
    assert rule["ports"] == [{"port": 80, "protocol": "TCP"}]
    assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == [
        *("169.254.169.254/32", "169.254.170.23/32", "fd00:ec2::254/128", "fd00:ec2::23/128"),
    ]


def test_network_policy_lets_the_api_server_and_dns_through() -> None:
    values = {
        "networkPolicy": {"enabled": True, "ingressFrom": [{"namespaceSelector": {}}]},
        "exporter": SINKS[2],
        "reader": {"enabled": True},
    }
    objects = render(values=values)
    rules = find(objects, "NetworkPolicy", "gpuid-operator")["spec"]
    dns, _ = rules["egress"]
    assert dns == {"ports": [{"port": 53, "protocol": name} for name in ("UDP", "TCP")]}
    assert tcp_ports(objects) == [443, 6443, 5432]
    (ingress,) = rules["ingress"]
    test_pod = find(objects, "Pod")["metadata"]["labels"]
    peers = [
        peer["podSelector"]["matchLabels"] for peer in ingress["from"] if "podSelector" in peer
    ]
    assert any(peer.items() <= test_pod.items() for peer in peers)
    silent = find(objects, "NetworkPolicy", "gpuid-operator-reader")["spec"]
    assert silent["policyTypes"] == ["Ingress", "Egress"]
    assert not silent.keys() & {"ingress", "egress"}
