"""What is written to the cluster: statuses, labels, policy statuses, Events."""
