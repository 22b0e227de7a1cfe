"""The last known state of the cluster: inventories, target pods, nodes, policies."""
