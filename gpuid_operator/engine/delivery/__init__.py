"""Delivers the history of every node to every sink that applies to it, at least once and in order.

A record's way: the status writer tells `manager` of new entries; `sink_worker` gathers a `batch`
from the `sink_outbox`, sends it, and hands its last sequence to the `cursor_writer`.
"""
