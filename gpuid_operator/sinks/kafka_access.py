"""How to connect to Kafka brokers: TLS and credentials."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from functools import cached_property

from gpuid_operator.api.sinks import SASLMechanism
from gpuid_operator.sinks.base import Refused


class LoginRefused(Refused):
    """The broker rejects the credentials."""


@dataclass(frozen=True, kw_only=True)
class Login:
    mechanism: SASLMechanism
    user: str
    password: str


@dataclass(frozen=True, kw_only=True)
class TLS:
    """PEM texts; None: the authorities of the system, no client certificate."""

    authorities: str | None
    certificate: str | None
    key: str | None

    @cached_property
    def context(self) -> ssl.SSLContext:
        """Takes 30 ms and a megabyte with the authorities of the system. Raises Refused if one of
        the texts is unusable."""
        try:
            context = ssl.create_default_context(cadata=self.authorities)
        except (ssl.SSLError, ValueError) as error:
            raise Refused("tls.caSecretRef contains no PEM certificate: add one") from error
        if self.certificate is not None:
            # The ssl module reads certificates from files only; this one is in memory.
            descriptor = os.memfd_create("certificate")
            try:
                os.write(descriptor, f"{self.certificate}\n{self.key}\n".encode())
                context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
            except (ssl.SSLError, ValueError) as error:
                raise Refused(
                    "tls.certSecretRef contains no PEM certificate with its key, without a"
                    " passphrase: replace tls.crt and tls.key"
                ) from error
            finally:
                os.close(descriptor)
        return context


def _no_password() -> str:
    raise ValueError("the key has a passphrase")  # instead of a prompt


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to connect to a broker; `tls` None: in clear text, `login` None: without SASL."""

    tls: TLS | None
    login: Login | None

    @property
    def secrets(self) -> list[str]:
        return [self.login.password] if self.login else []
