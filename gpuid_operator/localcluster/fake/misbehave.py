"""nvidia-smi of a simulated node that has a behaviour.json."""

import contextlib
import json
import os
import pathlib
import signal
import sys
import time

folder = pathlib.Path(os.environ["GPUID_NODE_DIR"])
behaviour = {}
with contextlib.suppress(FileNotFoundError):  # cleared since the caller looked
    behaviour = json.loads((folder / "behaviour.json").read_text())
if behaviour.get("missing"):
    sys.stderr.write("sh: 1: nvidia-smi: not found\n")
    sys.exit(127)
time.sleep(behaviour.get("delay", 0))
if behaviour.get("hang"):
    # As a driver that is stuck: nothing but SIGKILL ends it.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(3600)
stdout = behaviour.get("stdout")
if stdout is None:
    content = (folder / "nvidia-smi.xml").read_bytes()
else:
    content = stdout.encode(errors="surrogateescape")
sys.stdout.buffer.write(content)
sys.stdout.buffer.flush()
sys.stderr.write(behaviour.get("stderr", ""))
sys.exit(behaviour.get("exit", 0))
