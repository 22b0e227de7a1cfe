"""The fault campaign: once faults stop, everything is as in a run without faults."""
