"""What brings every node in line: the reconciler, the re-sync, the inventory watch."""
