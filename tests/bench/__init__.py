"""Benchmarks: `make bench`, `make bench-sinks`, `make bench-sql`, `make bench-work`.

`run.py` is the command. Each scenario is a module with a function that measures a fleet and returns
figures, which `results.py` writes to build/bench and `tables.py` shows.
"""
