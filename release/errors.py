"""The one error of a release."""

from __future__ import annotations


class ReleaseError(Exception):
    """A step failed; the text says what was tried, what the result was and what to do."""
