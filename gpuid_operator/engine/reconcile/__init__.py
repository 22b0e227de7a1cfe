"""The loops that keep the cluster in line: the node reconciler, the resync, the inventory watch."""
