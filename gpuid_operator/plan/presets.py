"""Presets: where the pods of well-known installations have nvidia-smi.

`PRESETS` is the only place that says so. The table of docs/presets.md, and the file with which the
chart finds the namespaces of a preset, are generated from it (`make chart`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gpuid_operator.plan.target import GKE_NVIDIA_SMI, NVIDIA_SMI, Target

AUTO: Final = "auto"
"""The preset that consists of all others, in the order of `PRESETS`."""

DRIVER_ROOT_SCRIPT: Final = """\
unset LD_LIBRARY_PATH
for root in /driver-root /host; do
  for folder in opt/bin usr/bin usr/sbin bin sbin usr/lib/nvidia/current; do
    smi=$root/$folder/nvidia-smi
    [ -x "$smi" ] || continue
    for folder in usr/lib64 usr/lib/x86_64-linux-gnu usr/lib/aarch64-linux-gnu lib64 \\
      lib/x86_64-linux-gnu lib/aarch64-linux-gnu usr/lib/x86_64-linux-gnu/nvidia/current \\
      usr/lib/aarch64-linux-gnu/nvidia/current opt/lib64 usr/lib lib; do
      [ -e "$root/$folder/libnvidia-ml.so.1" ] || continue
      LD_PRELOAD=$root/$folder/libnvidia-ml.so.1
      export LD_PRELOAD
      exec "$smi" -q -x
    done
  done
done
echo "nvidia-smi: not found with its libnvidia-ml.so.1 under /driver-root and /host" >&2
exit 127
"""
"""Runs the nvidia-smi of a driver root that is mounted into the container. It preloads nothing but
libnvidia-ml: a library path would bring the C library of the root, which does not fit the loader of
the container."""

_FROM_DRIVER_ROOT: Final = ("sh", "-c", DRIVER_ROOT_SCRIPT)

NO_VALIDATORS: Final = (
    "app!=nvidia-operator-validator,app.kubernetes.io/component!=nvidia-dra-validator"
)
"""Pods that check an installation may carry labels of the pods that they check, and have no GPU."""

_GPU_OPERATOR: Final = ("gpu-operator",)
_KUBE_SYSTEM: Final = ("kube-system",)
_DRA_DRIVER: Final = "dra-driver-nvidia-gpu"
_OLD_DRA_DRIVER: Final = "nvidia-dra-driver-gpu"
SHARED_NAMESPACES: Final = frozenset({*_KUBE_SYSTEM, "gpuid"})
"""Namespaces that are there without the pods of a preset. The chart grants no rights there for
`auto` unless it sees such pods."""


@dataclass(frozen=True, slots=True)
class PresetPods:
    """The pods of one DaemonSet, and how to run nvidia-smi there."""

    namespaces: tuple[str, ...]
    """Where the documentation of the installation puts them."""
    label: str
    """A label of the pods, as key=value."""
    container: str
    command: tuple[str, ...] = NVIDIA_SMI
    also: str = NO_VALIDATORS
    """Further requirements of the selector."""

    @property
    def selector(self) -> str:
        """A label selector for the pods."""
        return f"{self.label},{self.also}"


PRESETS: Final[dict[str, tuple[PresetPods, ...]]] = {
    # The driver's own container sees every GPU in every mode, also those that MIG divides. It is
    # absent where the host has the driver.
    "gpu-operator": (
        PresetPods(_GPU_OPERATOR, "app.kubernetes.io/component=nvidia-driver", "nvidia-driver-ctr"),
        *(
            PresetPods(
                _GPU_OPERATOR,
                "app=nvidia-device-plugin-daemonset",
                "nvidia-device-plugin",
                command,
            )
            for command in (NVIDIA_SMI, _FROM_DRIVER_ROOT)
        ),
    ),
    "static-manifest": (
        PresetPods(_KUBE_SYSTEM, "name=nvidia-device-plugin-ds", "nvidia-device-plugin-ctr"),
        PresetPods(
            ("nvidia-device-plugin", *_KUBE_SYSTEM),
            "app.kubernetes.io/name=nvidia-device-plugin",
            "nvidia-device-plugin-ctr",
        ),
    ),
    "gke": (
        PresetPods(
            _KUBE_SYSTEM,
            "k8s-app=nvidia-gpu-device-plugin",
            "nvidia-gpu-device-plugin",
            (GKE_NVIDIA_SMI, *NVIDIA_SMI[1:]),
        ),
    ),
    # The labels of the GPU Operator, of the driver's own chart, and of that up to 25.12.
    "dra-driver": tuple(
        PresetPods(namespaces, label, container, _FROM_DRIVER_ROOT)
        for namespaces, label in (
            (_GPU_OPERATOR, "app=nvidia-dra-driver-kubelet-plugin"),
            (
                (_DRA_DRIVER, _OLD_DRA_DRIVER),
                "dra-driver-nvidia-gpu-component=kubelet-plugin",
            ),
            ((_OLD_DRA_DRIVER,), "nvidia-dra-driver-gpu-component=kubelet-plugin"),
        )
        for container in ("gpus", "compute-domains")
    ),
    "dcgm-exporter": (
        PresetPods(_GPU_OPERATOR, "app=nvidia-dcgm-exporter", "nvidia-dcgm-exporter"),
        PresetPods(_GPU_OPERATOR, "app=nvidia-dcgm-exporter-dra", "nvidia-dcgm-exporter-dra"),
        PresetPods(("dcgm-exporter",), "app.kubernetes.io/name=dcgm-exporter", "exporter"),
    ),
    # Reader pods of the chart, whose mode hostDriver needs its own command.
    "reader": tuple(
        PresetPods(
            ("gpuid",),
            "app.kubernetes.io/component=reader",
            "reader",
            command,
            also="app.kubernetes.io/part-of=gpuid-operator",
        )
        for command in (NVIDIA_SMI, ("python3", "-m", "gpuid_operator.cli.host_smi", "/host"))
    ),
}
"""The pods of each preset in the order in which they are tried, and the presets in the order of
`auto`: those that see most of a node come first."""

NAMES: Final = (*PRESETS, AUTO)


def expand(preset: str, *, namespace: str | None = None) -> tuple[Target, ...]:
    """The targets of a preset, in order; with `namespace`, there instead of in its default ones.

    Raises ValueError, which names the presets, for an unknown one.
    """
    if preset not in NAMES:
        raise ValueError(f"unknown preset {preset}; the presets are {', '.join(NAMES)}")
    names = tuple(PRESETS) if preset == AUTO else (preset,)
    # With `namespace`, several rows of a preset become one.
    return tuple(dict.fromkeys(_targets(names, namespace)))


def _targets(names: tuple[str, ...], namespace: str | None) -> Iterator[Target]:
    for name in names:
        for pods in PRESETS[name]:
            for place in (namespace,) if namespace is not None else pods.namespaces:
                yield Target(place, pods.selector, pods.container, pods.command, name)


def default_namespaces(preset: str) -> tuple[str, ...]:
    """The namespaces in which a preset looks by default, in order."""
    return tuple(dict.fromkeys(target.namespace for target in expand(preset)))
