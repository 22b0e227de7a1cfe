"""How Prometheus finds the operator that the chart installs, with and without its operator."""

from __future__ import annotations

import pytest

from tests.support.chart_values import ANNOTATIONS
from tests.support.manifests import Manifest, RenderError, find, render

KINDS = {
    "serviceMonitor": "ServiceMonitor",
    "podMonitor": "PodMonitor",
    "prometheusRule": "PrometheusRule",
}
CLUSTER = ("--api-versions", "apiregistration.k8s.io/v1")
"""Helm knows the APIs of the cluster."""


def served(kind: str) -> tuple[str, ...]:
    return (*CLUSTER, "--api-versions", f"monitoring.coreos.com/v1/{kind}")


def kinds(objects: list[Manifest]) -> set[str]:
    return {item["kind"] for item in objects} & set(KINDS.values())


def annotations_of(objects: list[Manifest]) -> Manifest:
    return dict(find(objects, "Service")["metadata"].get("annotations", {}))


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
@pytest.mark.parametrize("value", KINDS)
def test_a_kind_that_the_cluster_does_not_serve_is_left_out(value: str, helm: str) -> None:
    values = {value: {"enabled": True}}
    assert kinds(render(*CLUSTER, values=values, helm=helm)) == set()
    assert kinds(render(*served(KINDS[value]), values=values, helm=helm)) == {KINDS[value]}
    # Without a cluster, Helm cannot know.
    assert kinds(render(values=values, helm=helm)) == {KINDS[value]}


@pytest.mark.parametrize("value", KINDS)
def test_a_kind_that_the_cluster_does_not_serve_is_an_error_if_wanted(value: str) -> None:
    values = {value: {"enabled": True, "renderMode": "failIfMissing"}}
    assert kinds(render(*served(KINDS[value]), values=values)) == {KINDS[value]}
    with pytest.raises(RenderError, match=f"does not serve the kind {KINDS[value]}.*{value}"):
        render(*CLUSTER, values=values)
    values = {value: {"enabled": True, "renderMode": "alwaysRender"}}
    assert kinds(render(*CLUSTER, values=values)) == {KINDS[value]}


def test_the_monitor_of_services_or_pods_selects_the_operator() -> None:
    for value, field in (("serviceMonitor", "endpoints"), ("podMonitor", "podMetricsEndpoints")):
        ours = {
            "enabled": True,
            "namespace": "monitoring",
            "labels": {"release": "prometheus"},
            "honorLabels": True,
            "relabelings": [{"action": "labelmap", "regex": "x"}],
        }
        objects = render(values={value: ours})
        monitor = find(objects, KINDS[value])
        assert monitor["metadata"]["namespace"] == "monitoring"
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["gpuid"]}
        (endpoint,) = monitor["spec"][field]
        assert endpoint == {
            "port": "metrics",
            "path": "/metrics",
            "interval": "30s",
            "scrapeTimeout": "10s",
            "honorLabels": True,
            "relabelings": [{"action": "labelmap", "regex": "x"}],
        }
        selected = monitor["spec"]["selector"]["matchLabels"].items()
        deployment = find(objects, "Deployment")["spec"]["template"]
        (container,) = deployment["spec"]["containers"]
        service = find(objects, "Service")
        assert selected <= service["metadata"]["labels"].items()
        assert selected <= deployment["metadata"]["labels"].items()
        assert "metrics" in {item["name"] for item in service["spec"]["ports"]}
        assert "metrics" in {item["name"] for item in container["ports"]}


def test_annotations_ask_for_the_scrape_where_no_object_does() -> None:
    assert annotations_of(render()) == ANNOTATIONS
    assert annotations_of(render(values={"port": 9000}))["prometheus.io/port"] == "9000"
    own = {"prometheus.io/scrape": "false", "team": "gpu"}
    assert annotations_of(render(values={"service": {"annotations": own}})) == ANNOTATIONS | own
    for value in ("serviceMonitor", "podMonitor"):
        values = {value: {"enabled": True}}
        assert annotations_of(render(*served(KINDS[value]), values=values)) == {}
        assert annotations_of(render(*CLUSTER, values=values)) == ANNOTATIONS
