"""How history reaches the sinks."""
