"""Credentials: where they are looked for, that they never freeze, and that no error tells them."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from gpuid_operator.kube.credentials import (
    RELOAD_AFTER,
    FreshCredentials,
    InCluster,
    KubeConfig,
    find_source,
)
from gpuid_operator.kube.errors import NoCluster

if TYPE_CHECKING:
    from tests.conftest import Certificates

IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def account(tmp_path: Path, certificates: Certificates) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("first-token\n")
    (folder / "ca.crt").write_text(certificates.authority)
    return folder


def write_config(path: Path, user: dict[str, Any], **cluster: Any) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [
                    {"name": "c", "cluster": {"server": "https://api.example:6443", **cluster}}
                ],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    return path


async def authorization(source: KubeConfig, *, rejected: bool = False) -> str | None:
    return (await source.load(rejected=rejected)).authorization


@pytest.mark.parametrize(("host", "server"), [("10.0.0.1", "10.0.0.1"), ("fd00::1", "[fd00::1]")])
async def test_in_a_pod_the_service_account_is_used(account: Path, host: str, server: str) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"}
    source = find_source(kubeconfig=None, context=None, environ=environ, service_account=account)
    credentials = await source.load(rejected=False)
    assert credentials.server == f"https://{server}:6443"
    assert credentials.authorization == "Bearer first-token"
    assert credentials.ca_path == str(account / "ca.crt")
    assert "first-token" not in repr(credentials)


async def test_a_kubeconfig_goes_before_the_service_account(tmp_path: Path, account: Path) -> None:
    config = write_config(tmp_path / "config", {"token": "t"})
    environ = {**IN_POD, "KUBECONFIG": str(config)}
    for source in (
        find_source(kubeconfig=None, context=None, environ=environ, service_account=account),
        find_source(kubeconfig=config, context=None, environ=IN_POD, service_account=account),
    ):
        assert (await source.load(rejected=False)).server == "https://api.example:6443"


def test_nowhere_to_connect_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NoCluster, match="set KUBECONFIG"):
        find_source(kubeconfig=None, context=None, environ={})
    with pytest.raises(NoCluster, match="/no/such/file"):
        find_source(kubeconfig=Path("/no/such/file"), context=None, environ=IN_POD)


async def test_a_pods_token_is_read_again_after_its_time(account: Path) -> None:
    clock = Clock()
    fresh = FreshCredentials(InCluster(environ=IN_POD, folder=account), clock=clock)
    await fresh.get()
    (account / "token").write_text("second-token")
    clock.now += RELOAD_AFTER / 2
    await fresh.get()
    assert fresh.headers == {"Authorization": "Bearer first-token"}
    clock.now += RELOAD_AFTER
    await fresh.get()
    assert fresh.headers == {"Authorization": "Bearer second-token"}


async def test_a_refused_token_is_read_again_at_once(account: Path) -> None:
    fresh = FreshCredentials(InCluster(environ=IN_POD, folder=account), clock=Clock())
    first, _ = await fresh.get()
    assert not await fresh.renew_rejected(first)
    (account / "token").write_text("second-token")
    assert await fresh.renew_rejected(first)
    # Who comes second with the same refusal finds the new one there already.
    (account / "token").unlink()
    assert await fresh.renew_rejected(first)


async def test_a_token_that_is_gone_for_a_moment_does_no_harm(
    account: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    fresh = FreshCredentials(InCluster(environ=IN_POD, folder=account), clock=clock)
    await fresh.get()
    (account / "token").unlink()
    clock.now += RELOAD_AFTER
    await fresh.get()
    assert fresh.headers == {"Authorization": "Bearer first-token"}
    assert "failed to renew credentials" in caplog.text
    (account / "token").write_text("second-token")
    clock.now += RELOAD_AFTER / 6
    await fresh.get()
    assert fresh.headers == {"Authorization": "Bearer second-token"}


async def test_a_pod_without_a_token_says_why(tmp_path: Path) -> None:
    fresh = FreshCredentials(InCluster(environ=IN_POD, folder=tmp_path))
    with pytest.raises(NoCluster, match="automountServiceAccountToken"):
        await fresh.get()


async def test_a_rotated_ca_makes_a_new_tls_context(account: Path) -> None:
    clock = Clock()
    fresh = FreshCredentials(InCluster(environ=IN_POD, folder=account), clock=clock)
    _, before = await fresh.get()
    clock.now += RELOAD_AFTER
    assert (await fresh.get())[1] is before
    ca = account / "ca.crt"
    os.utime(ca, ns=(0, ca.stat().st_mtime_ns + 1))
    clock.now += RELOAD_AFTER
    assert (await fresh.get())[1] is not before


async def test_a_ca_that_is_none_says_so(account: Path) -> None:
    (account / "ca.crt").write_text("no certificate")
    fresh = FreshCredentials(InCluster(environ=IN_POD, folder=account))
    with pytest.raises(NoCluster, match=r"ca\.crt"):
        await fresh.get()


async def test_kubeconfig_with_token_ca_and_client_certificate(
    tmp_path: Path, certificates: Certificates
) -> None:
    def data(content: bytes) -> str:
        return base64.b64encode(content).decode()

    config = write_config(
        tmp_path / "config",
        {
            "token": "static",
            "client-certificate-data": data(certificates.certificate.read_bytes()),
            "client-key-data": data(certificates.key.read_bytes()),
        },
        **{
            "certificate-authority-data": data(certificates.authority.encode()),
            "tls-server-name": "kubernetes",
            "proxy-url": "http://proxy:3128",
        },
    )
    credentials = await KubeConfig(paths=str(config), context="here").load(rejected=False)
    assert credentials.authorization == "Bearer static"
    assert credentials.server_name == "kubernetes"
    assert credentials.proxy == "http://proxy:3128"
    assert not credentials.insecure
    assert credentials.ssl_context().get_ca_certs()


async def test_kubeconfig_token_file_is_followed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    source = KubeConfig(
        paths=str(write_config(tmp_path / "config", {"tokenFile": str(token)})), context=None
    )
    assert await authorization(source) == "Bearer one"
    token.write_text("two")
    assert await authorization(source) == "Bearer two"


async def test_a_kubeconfig_that_changes_is_read_again(tmp_path: Path) -> None:
    config = write_config(tmp_path / "config", {"token": "one"})
    source = KubeConfig(paths=str(config), context=None)
    assert await authorization(source) == "Bearer one"
    before = config.stat().st_mtime_ns
    write_config(config, {"token": "two"})
    os.utime(config, ns=(before + 1, before + 1))
    assert await authorization(source) == "Bearer two"


async def test_exec_plugin_is_asked_again_when_its_token_is_refused(tmp_path: Path) -> None:
    count = tmp_path / "count"
    plugin = tmp_path / "plugin"
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "TOKEN", "expirationTimestamp": "2999-01-01T00:00:00Z"},
    }
    plugin.write_text(
        f"#!{sys.executable}\n"
        "import pathlib\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "number = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (number + 1))\n"
        f"print({json.dumps(answer)!r}.replace('TOKEN', f'token-{{number}}'))\n"
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    source = KubeConfig(paths=str(write_config(tmp_path / "config", user)), context=None)
    assert await authorization(source) == "Bearer token-0"
    assert await authorization(source) == "Bearer token-0"
    assert await authorization(source, rejected=True) == "Bearer token-1"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("users: [{user: {token: hunter2}}, {", r"not valid YAML \(line 1\)"),
        ("{}", "failed to load the kubeconfig"),
        ("- hunter2", "failed to load the kubeconfig"),
        (
            "{current-context: x, contexts: [], clusters: [], users: []}",
            "failed to load the kubeconfig",
        ),
    ],
)
async def test_a_broken_kubeconfig_is_told_without_its_content(
    tmp_path: Path, content: str, says: str
) -> None:
    config = tmp_path / "config"
    config.write_text(content)
    with pytest.raises(NoCluster, match=says) as caught:
        await KubeConfig(paths=str(config), context=None).load(rejected=False)
    assert "hunter2" not in caught.value.message
    assert str(config) in caught.value.message


async def test_a_context_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = write_config(tmp_path / "config", {"token": "t"})
    with pytest.raises(NoCluster, match="context elsewhere"):
        await KubeConfig(paths=str(config), context="elsewhere").load(rejected=False)
