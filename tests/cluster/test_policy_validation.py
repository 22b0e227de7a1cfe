"""What the API server refuses of a policy or an inventory's spec, and the words that it has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpuid_operator.api.sinks import TYPE_NAMES
from gpuid_operator.localcluster import LocalCluster

CHECK = {"name": "c", "podSelector": {}, "command": "true"}
HTTP = {"url": "https://host/path"}
AZURE = {"account": "fleet", "container": "gpus"}
OBJECT_STORES = {"s3": {"bucket": "b"}, "gcs": {"bucket": "b"}, "azure": AZURE}
KAFKA = {"brokers": ["kafka-1:9093"], "topic": "changes"}
KAFKA_SASL = {f"{key}SecretRef": {"name": "bus", "key": key} for key in ("user", "password")} | {
    "mechanism": "SCRAM-SHA-512"
}
PG = {"host": "h", "database": "d"}
DURATION = "must be a duration such as 500ms, 30s, 1m30s or 24h (0s for none), at most 87600h"
ONE_OF = f"set exactly one of {TYPE_NAMES} (stdout as `stdout: {{}}`)"
OTLP = "with format otlp, url must include the path, such as https://"
HTTPS = "must begin with https://; set insecure: true to send in clear text"


def sink(**fields: Any) -> dict[str, Any]:
    return {"sinks": [{"name": "s", **fields}]}


def check(**fields: Any) -> dict[str, Any]:
    return {"checks": [CHECK | fields]}


def apply(cluster: LocalCluster, kind: str, spec: dict[str, Any]) -> str:
    """What the server says to it; nothing when it takes it."""
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": kind,
        "metadata": {"name": "any"},
        "spec": spec,
    }
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"),
        input=json.dumps(body),
        check=False,
    )
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (sink(), ONE_OF),
        (sink(stdout={}, http=HTTP), ONE_OF),
        (sink(http={"url": "http://host/path"}), f"url {HTTPS}"),
        *(
            (sink(**{kind: {**fields, "endpoint": "http://h"}}), f"endpoint {HTTPS}")
            for kind, fields in OBJECT_STORES.items()
        ),
        (sink(azure={**AZURE, "account": "fleet-1"}), "3 to 24 lower-case letters and digits"),
        (sink(azure={**AZURE, "container": "a--b"}), "must be the name of a container"),
        (sink(gcs={"bucket": "a/b"}), "must be the name of a bucket"),
        (sink(gcs={"bucket": "b"}, azure=AZURE), ONE_OF),
        *(
            (sink(http={"url": f"https://host:4318{path}", "format": "otlp"}), OTLP)
            for path in ("", "/", "?a/b", "/?a/b")
        ),
        (
            sink(kafka={**KAFKA, "tls": {}, "insecure": True}),
            "insecure: true sends in clear text; remove it to use TLS, or remove tls",
        ),
        *(
            (sink(kafka={**KAFKA, "brokers": [broker]}), "must be host:port, such as")
            for broker in ("kafka-1", "https://kafka-1:9093", "a,b:9093", "kafka-1:")
        ),
        (sink(kafka={**KAFKA, "brokers": []}), "should have at least 1 items"),
        (sink(kafka={**KAFKA, "topic": "a/b"}), "must be the name of a topic"),
        (sink(kafka={**KAFKA, "sasl": {**KAFKA_SASL, "mechanism": "GSSAPI"}}), '"SCRAM-SHA-256"'),
        (sink(kafka={**KAFKA, "sasl": {"mechanism": "PLAIN"}}), "userSecretRef: Required value"),
        (sink(http={"url": "https://user:secret@host/"}), "spec.sinks[0].http.url"),
        (sink(http={"url": "ftp://host/"}), "spec.sinks[0].http.url"),
        (sink(postgres={"host": "h"}), "spec.sinks[0].postgres.database: Required value"),
        (sink(postgres={**PG, "table": "a; drop"}), "spec.sinks[0].postgres.table"),
        (sink(postgres={**PG, "sslMode": "off"}), '"verify-full"'),
        (sink(postgres={**PG, "password": "p"}), 'unknown field "spec.sinks[0].postgres.password"'),
        (sink(s3={"bucket": "b", "partition": "%Q"}), "spec.sinks[0].s3.partition"),
        (sink(http=HTTP, records="all"), '"sightings"'),
        (sink(http=HTTP, batch={"maxRecords": 0}), "greater than or equal to 1"),
        (sink(http={**HTTP, "timeout": "1 minute"}), DURATION),
        ({"sinks": [{"name": "s", "stdout": {}}] * 2}, 'Duplicate value: {"name":"s"}'),
        ({"sinks": [{"name": "A_b", "stdout": {}}]}, "spec.sinks[0].name"),
        ({"sinks": [{"stdout": {}}]}, "spec.sinks[0].name: Required value"),
        (
            {"sinks": [{"name": f"s{n}", "stdout": {}} for n in range(17)]},
            "must have at most 16 items",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["GPUInventoryPolicy", "GPUInventory"])
def test_sinks_that_are_refused(
    cluster: LocalCluster, kind: str, spec: dict[str, Any], words: str
) -> None:
    assert words in apply(cluster, kind, spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"readInterval": "0"}, DURATION),
        ({"readInterval": "1d"}, DURATION),
        ({"readInterval": "-1h"}, DURATION),
        ({"retention": "87601h"}, DURATION),
        ({"retention": "9999999999h"}, DURATION),
        ({"sightingInterval": "5256000m1s"}, DURATION),
        (
            {"readInterval": "10ms"},
            "readInterval must be at least 1s, or 0s to read only on events",
        ),
        ({"priority": 1_000_001}, "less than or equal to 1000000"),
        ({"nodeSelektor": {}}, 'unknown field "spec.nodeSelektor"'),
        (
            {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            "operators In and NotIn require values; Exists and DoesNotExist forbid them",
        ),
        (
            {
                "nodeSelector": {
                    "matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]
                }
            },
            "operators In and NotIn require values; Exists and DoesNotExist forbid them",
        ),
        (
            {"nodeSelector": {"matchExpressions": [{"key": "a b", "operator": "Exists"}]}},
            "spec.nodeSelector.matchExpressions[0].key",
        ),
        ({"nodeSelector": {"matchLabels": {"a": "b c"}}}, "spec.nodeSelector.matchLabels.a"),
        ({"nodeSelector": {"matchLabels": {"a": "b" * 64}}}, "spec.nodeSelector.matchLabels.a"),
        ({"checks": [CHECK, CHECK]}, 'Duplicate value: {"name":"c"}'),
        ({"checks": [{"name": "c", "command": "true"}]}, "podSelector: Required value"),
        ({"checks": [CHECK | {"name": f"c{n}"} for n in range(17)]}, "at most 16 items"),
        (check(command=""), "spec.checks[0].command"),
        (check(command="x" * 16_385), "spec.checks[0].command"),
        (check(onFailure="Reboot"), '"RestartPod"'),
        (check(timeout="0s"), "timeout must be more than 0s and at most 1h"),
        (check(timeout="61m"), "timeout must be more than 0s and at most 1h"),
        (check(interval="500ms"), "interval must be at least 1s, or 0s"),
        (check(interval="soon"), DURATION),
        ({"expect": {"gpus": 65}}, "spec.expect.gpus in body should be less than or equal to 64"),
        ({"expect": {"gpus": -1}}, "should be greater than or equal to 0"),
        ({"expect": {"gpus": "8"}}, "spec.expect.gpus in body must be of type integer"),
        ({"expect": {"products": []}}, "spec.expect.products in body should have at least 1 items"),
        ({"expect": {"drivers": []}}, "spec.expect.drivers in body should have at least 1 items"),
        ({"expect": {"drivers": [""]}}, "should be at least 1 chars long"),
        ({"expect": {"products": ["p"] * 17}}, "must have at most 16 items"),
        ({"expect": {"gpu": 8}}, 'unknown field "spec.expect.gpu"'),
    ],
)
def test_policies_that_are_refused(cluster: LocalCluster, spec: dict[str, Any], words: str) -> None:
    assert words in apply(cluster, "GPUInventoryPolicy", spec)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"sinks": []},
        {"readInterval": "0s", "sightingInterval": "1m30.5s", "retention": "87600h"},
        sink(http={"url": "http://host", "insecure": True}),
        sink(http={"url": "https://host"}),
        sink(http={"url": "https://host:4318/v1/logs?a/b", "format": "otlp"}),
        *(
            sink(**{kind: {**fields, "endpoint": "http://h:9000", "insecure": True}})
            for kind, fields in OBJECT_STORES.items()
        ),
        sink(gcs={"bucket": "b"}),
        sink(azure=AZURE),
        sink(kafka={**KAFKA, "insecure": True, "sasl": KAFKA_SASL}),
        sink(kafka={**KAFKA, "insecure": False, "tls": {"certSecretRef": {"name": "client"}}}),
        sink(kafka={**KAFKA, "brokers": ["10.0.0.1:9093", "[::1]:9093"]}),
        check(timeout="1h", interval="0s", onFailure="RestartPod", container="main"),
        {"expect": {"gpus": 0, "products": ["NVIDIA H100 80GB HBM3"], "drivers": ["570.86.15"]}},
        {"expect": {}},
        check(timeout="500ms", podSelector={"matchLabels": {"example.com/a_B.c": ""}}),
        {"nodeSelector": {"matchExpressions": [{"key": "a/b", "operator": "In", "values": [""]}]}},
    ],
)
def test_policies_that_are_taken(cluster: LocalCluster, spec: dict[str, Any]) -> None:
    assert apply(cluster, "GPUInventoryPolicy", spec) == ""


def test_an_inventory_has_no_fields_of_a_policy(cluster: LocalCluster) -> None:
    assert 'unknown field "spec.checks"' in apply(cluster, "GPUInventory", {"checks": [CHECK]})
    assert apply(cluster, "GPUInventory", {"suspend": True}) == ""
