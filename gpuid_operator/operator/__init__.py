"""The process: Kopf's handlers, leader election, settings, health, and what joins them.

Start with `handlers.py`: what the operator does with each event. `app.main` is the entry point.
"""
