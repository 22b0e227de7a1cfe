"""The one error of a release."""

from __future__ import annotations


class ReleaseError(Exception):
    """A step cannot be done; the text says what was tried, what came back and what to do."""
