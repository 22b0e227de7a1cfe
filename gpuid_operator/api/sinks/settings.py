"""What the settings of all types of sinks share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import Field

from gpuid_operator.api.values import Model

NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_KEY_PATTERN: Final = r"^[-._a-zA-Z0-9]+$"

COMMON_PATTERNS: Final = {
    NAME_PATTERN: "must be lower-case letters, digits and hyphens, such as fleet-1,"
    " and begin and end with a letter or digit",
    _KEY_PATTERN: "must be letters, digits, hyphens, underscores and dots, such as token",
}

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
Text = Annotated[str, Field(min_length=1, max_length=253)]


def https_unless_insecure(field: str) -> dict[str, str]:
    """The CEL rule that a URL in `field` is https unless `insecure` is true."""
    return {
        "rule": f"!has(self.{field}) || !self.{field}.startsWith('http://')"
        " || (has(self.insecure) && self.insecure)",
        "message": f"{field} must begin with https://; set insecure: true to send in clear text",
    }


class SinkSettings(Model):
    """The settings of one type of sink: a field of `Sink`."""

    RULES: ClassVar[tuple[dict[str, str], ...]] = ()
    """CEL rules of the CRD, each with a message that says what to write."""
    PATTERNS: ClassVar[dict[str, str]] = {}
    """What the CRD says to a user whose value does not match a pattern, by pattern."""

    @property
    def only_sightings(self) -> bool:
        """Whether the sink takes `Sighted` records only."""
        return False


class SecretKeyRef(Model):
    """A key of a Secret in the namespace of the operator.

    The Secret must have the label `gpuid.github.com/sink: "true"`.
    """

    name: Text
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=_KEY_PATTERN)]
    """Key in the data of the Secret."""


class SecretRef(Model):
    """A Secret in the namespace of the operator. It must have the label
    `gpuid.github.com/sink: "true"`."""

    name: Text
    """Name of the Secret."""
