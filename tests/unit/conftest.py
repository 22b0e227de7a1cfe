"""What the unit tests share: hypothesis draws the same examples in every run, at any speed."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None, derandomize=True)
settings.load_profile("unit")
