"""Reads of nodes: when they are due, how nvidia-smi runs, and nodes on which it cannot run."""
