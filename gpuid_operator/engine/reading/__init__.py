"""How a node is read: when, by which command, and what becomes of it."""
