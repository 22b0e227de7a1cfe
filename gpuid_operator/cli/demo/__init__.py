"""`gpuid-operator demo`: the operator on simulated GPUs, in a local cluster or in one of yours.

Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

from gpuid_operator.cli.demo.command import demo

__all__ = ["demo"]
