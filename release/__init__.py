"""From a commit to what its users can verify: the image, its chart, its wheel, and proofs of each.

`python -m release --help` says how to run it; docs/verify.md, how to check what it made.
"""
