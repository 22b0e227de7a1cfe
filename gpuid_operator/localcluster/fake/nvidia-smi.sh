#!/bin/sh
# nvidia-smi of a simulated node. It is run a thousand times by a benchmark: one
# shell and one cat, unless the node is to misbehave.
: "${GPUID_NODE_DIR:?is set in the containers of simulated nodes only}"
read -r uptime rest < /proc/uptime
echo "$uptime" >> "$GPUID_NODE_DIR/exec.log"
if [ -e "$GPUID_NODE_DIR/behaviour.json" ]; then
    exec '@PYTHON@' -I -S '@MISBEHAVE@'
fi
exec cat "$GPUID_NODE_DIR/nvidia-smi.xml"
