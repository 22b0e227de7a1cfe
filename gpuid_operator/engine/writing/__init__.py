"""Everything that the engine writes to the API server: statuses, labels, Events."""
