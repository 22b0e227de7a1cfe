"""What is known of the cluster: inventories, pods, nodes, policies."""
