"""Simulated GPUs of a node without any: `nvidia-smi` and `swap-gpu` in a pod that looks like the
device plugin.

Without arguments this is the main process of the container. It writes the two programs into a
folder of PATH, then waits for SIGTERM, the end of the pod, or SIGUSR1, with which swap-gpu asks for
a restart: after a real swap the device plugin has a new container, too.

    nvidia-smi -q -x     prints the GPUs as XML, like a driver of the R570 branch
    nvidia-smi -L        prints a line per GPU
    swap-gpu INDEX       replaces a GPU by another one, with a serial and a UUID of its own

Serials and UUIDs follow from the name of the node and the swaps so far. The volume STATE_DIR keeps
the swaps: a restart of the container changes no GPU, and a new pod begins with the first ones.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

NODE = os.environ["NODE_NAME"]
STATE = Path(os.environ["STATE_DIR"])
GPUS = int(os.environ.get("GPUS", "8"))
PRODUCT = "NVIDIA H100 80GB HBM3"
BUSES = ("53", "64", "75", "86", "97", "A8", "B9", "CA")
HEAD = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
	<timestamp>{time}</timestamp>
	<driver_version>570.86.15</driver_version>
	<cuda_version>12.8</cuda_version>
	<attached_gpus>{count}</attached_gpus>
"""
GPU = """\
	<gpu id="{address}">
		<product_name>{product}</product_name>
		<product_brand>NVIDIA</product_brand>
		<product_architecture>Hopper</product_architecture>
		<mig_mode>
			<current_mig>Disabled</current_mig>
			<pending_mig>Disabled</pending_mig>
		</mig_mode>
		<serial>{serial}</serial>
		<uuid>{uuid}</uuid>
		<minor_number>{index}</minor_number>
		<vbios_version>96.00.B1.00.01</vbios_version>
		<board_part_number>692-2G520-0210-001</board_part_number>
		<gpu_part_number>2330-885-A1</gpu_part_number>
		<platformInfo>
			<chassis_serial_number>N/A</chassis_serial_number>
			<module_id>{module}</module_id>
		</platformInfo>
		<gpu_virtualization_mode>
			<virtualization_mode>None</virtualization_mode>
		</gpu_virtualization_mode>
		<gpu_recovery_action>None</gpu_recovery_action>
		<pci>
			<pci_bus_id>{address}</pci_bus_id>
		</pci>
		<ecc_errors>
			<aggregate>
				<sram_uncorrectable_parity>0</sram_uncorrectable_parity>
				<sram_uncorrectable_secded>0</sram_uncorrectable_secded>
				<dram_uncorrectable>0</dram_uncorrectable>
			</aggregate>
		</ecc_errors>
		<remapped_rows>
			<remapped_row_pending>No</remapped_row_pending>
			<remapped_row_failure>No</remapped_row_failure>
		</remapped_rows>
		<processes>
		</processes>
	</gpu>
"""


def main(arguments: list[str]) -> int | str:
    """The exit code, or the text of an error, for the program that `arguments` begins with."""
    program, *rest = arguments or ["device-plugin"]
    match Path(program).name, rest:
        case "device-plugin", []:
            return device_plugin()
        case "nvidia-smi", ["-q", "-x"]:
            now = time.strftime("%a %b %e %H:%M:%S %Y")
            gpus = "".join(GPU.format(**facts(index)) for index in range(GPUS))
            print(f"{HEAD.format(time=now, count=GPUS)}{gpus}</nvidia_smi_log>")
        case "nvidia-smi", ["-L"]:
            for index in range(GPUS):
                print(f"GPU {index}: {PRODUCT} (UUID: {facts(index)['uuid']})")
        case "nvidia-smi", _:
            return "the simulated nvidia-smi takes -q -x, or -L"
        case "swap-gpu", [index] if index in map(str, range(GPUS)):
            swap(int(index))
        case _:
            return f"usage: swap-gpu INDEX, from 0 to {GPUS - 1}"
    return 0


def device_plugin() -> int:
    """Wait for the end of the pod, or for a restart."""
    signals = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    (STATE / "pid").write_text(str(os.getpid()))
    folder = STATE / "bin"
    folder.mkdir(exist_ok=True)
    for name in ("nvidia-smi", "swap-gpu"):
        # The image has no shell, and its Python is not in the same place in each base image.
        (folder / name).write_text(f"#!{sys.executable} {Path(__file__).absolute()}\n")
        (folder / name).chmod(0o755)
    print(f"{GPUS} simulated GPUs on {NODE}", flush=True)
    received = signal.sigwaitinfo(signals)
    if received.si_signo == signal.SIGUSR1:
        # With this process every other one in the container is killed; let swap-gpu end first.
        deadline = time.monotonic() + 5
        while Path(f"/proc/{received.si_pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    return 0


def swap(index: int) -> None:
    """Replace a GPU, then let the container restart."""
    old = facts(index)
    with (STATE / "swaps").open("a") as swaps:
        swaps.write(f"{index}\n")
    new = facts(index)
    print(f"replaced GPU {index}: serial {old['serial']} by {new['serial']}")
    print("restarting the container (Kubernetes delays the restarts that follow)", flush=True)
    os.kill(int((STATE / "pid").read_text()), signal.SIGUSR1)


def facts(index: int) -> dict[str, str]:
    """The facts in which GPUs differ."""
    swaps = STATE / "swaps"
    count = swaps.read_text().split().count(str(index)) if swaps.exists() else 0
    digest = hashlib.sha256(f"{NODE}/{index}/{count}".encode()).hexdigest()
    parts = (digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32])
    return {
        "product": PRODUCT,
        "index": str(index),
        "module": str(index + 1),
        "address": f"{index // len(BUSES):08X}:{BUSES[index % len(BUSES)]}:00.0",
        "serial": f"165{int(digest, 16) % 10**10:010}",
        "uuid": f"GPU-{'-'.join(parts)}",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
