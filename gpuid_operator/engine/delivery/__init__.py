"""Delivers the history of every node to every sink that applies to it, at least once and in order.

The path of a record: the status writer notifies `manager` of new entries; `sink_worker` gathers a
`batch` from the `sink_outbox` and sends it; the `cursor_writer` writes how far the sink has come.
"""
