"""Commands of the users' own, run on each node."""
