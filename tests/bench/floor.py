"""The floor: every target pod executed once, and nothing else. Prints one JSON line.

What no reader of GPUs can do without: a WebSocket per pod, 16 at a time, and the output read to its
end. No parsing, no writing, no watching.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import ssl
import time
from pathlib import Path

import aiohttp
import yaml


async def measure(kubeconfig: str, workers: int) -> dict[str, float]:
    """Execute nvidia-smi in all target pods."""
    config = yaml.safe_load(Path(kubeconfig).read_text())  # noqa: ASYNC240
    cluster = config["clusters"][0]["cluster"]
    token = config["users"][0]["user"]["token"]
    server, context = (
        cluster["server"],
        ssl.create_default_context(cafile=cluster["certificate-authority"]),
    )
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(
        headers=headers, connector=aiohttp.TCPConnector(ssl=context, limit=0)
    ) as session:
        began, used = time.monotonic(), os.times()
        async with session.get(f"{server}/api/v1/namespaces/gpu-operator/pods") as answer:
            pods = [pod["metadata"]["name"] for pod in (await answer.json())["items"]]
        slots = asyncio.Semaphore(workers)
        size = 0

        async def execute(pod: str) -> None:
            nonlocal size
            async with (
                slots,
                session.ws_connect(
                    f"{server}/api/v1/namespaces/gpu-operator/pods/{pod}/exec"
                    "?command=nvidia-smi&command=-q&command=-x&stdout=true&stderr=true"
                    "&container=nvidia-device-plugin",
                    protocols=["v5.channel.k8s.io", "v4.channel.k8s.io"],
                    compress=0,
                    max_msg_size=0,
                ) as socket,
            ):
                async for message in socket:
                    size += len(message.data)
                    if message.data[0] == 3:
                        return

        await asyncio.gather(*map(execute, pods))
        now = os.times()
    cpu = now.user + now.system - used.user - used.system
    return {
        "nodes": len(pods),
        "bytes": size,
        "wall": time.monotonic() - began,
        "cpu": cpu,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig")
    parser.add_argument("--workers", type=int, default=16)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.kubeconfig, options.workers))))
