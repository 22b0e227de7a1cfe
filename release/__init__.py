"""Builds a release from a commit: image, chart, wheel, manifests, and proofs to verify each with.

`python -m release --help` shows how to run it; docs/verify.md shows how to verify the result.
"""
