"""Builds a release from a commit: image, chart, wheel, and proofs with which users can verify each.

`python -m release --help` shows how to run it; docs/verify.md shows how to verify the result.
"""
