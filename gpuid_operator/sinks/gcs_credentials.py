"""Credentials for Google Cloud Storage: the key of a service account, and the operator's own
identity (Workload Identity Federation for GKE or of another cluster, or that of the node)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, Field, ValidationError

from gpuid_operator.sinks.base import Refused
from gpuid_operator.sinks.tokens import METADATA_SERVER, TokenRequest

KEY: Final = "GOOGLE_SERVICE_ACCOUNT_KEY"
FILE: Final = "GOOGLE_APPLICATION_CREDENTIALS"

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_TOKEN_PATH: Final = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105
_OAUTH: Final = "urn:ietf:params:oauth"
_CLOCK_DIFFERENCE: Final = 60
_VALIDITY: Final = 15 * 60


class _KeyFile(BaseModel):
    """The JSON key of a service account, as Google hands it out."""

    type: Literal["service_account"]
    client_email: str
    private_key_id: str
    # An RSA key of 4096 bits is shorter. The time to load one grows with the cube of its length.
    private_key: Annotated[str, Field(max_length=4096)]


@dataclass(frozen=True)
class ServiceAccount:
    """A service account whose key is at hand."""

    email: str
    key_id: str
    key: Any

    @classmethod
    def load(cls, text: str) -> ServiceAccount:
        """From the JSON of a key. Takes a tenth of a second, since it checks the key. Raises
        ValueError that does not quote the key."""
        import jwt  # with cryptography 10 MB, which other identities do not need
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

        try:
            found = _KeyFile.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(_problem(error)) from None
        try:
            key = jwt.get_algorithm_by_name("RS256").prepare_key(found.private_key)
        except (ValueError, TypeError, jwt.PyJWTError):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise ValueError("private_key: no RSA key in PEM format")
        return cls(found.client_email, found.private_key_id, key)

    def sign(self, now: float) -> str:
        """A token that the account signs itself, valid for a quarter of an hour from `now` (Unix
        time)."""
        import jwt

        claims = {
            "iss": self.email,
            "sub": self.email,
            "scope": _SCOPE,
            "iat": int(now) - _CLOCK_DIFFERENCE,
            "exp": int(now) + _VALIDITY,
        }
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": self.key_id})


class _TokenFile(BaseModel):
    file: Path


class _ExternalAccount(BaseModel):
    """What `gcloud iam workload-identity-pools create-cred-config` writes for a token that the
    kubelet keeps in a file."""

    type: Literal["external_account"]
    audience: str
    subject_token_type: str
    token_url: str
    credential_source: _TokenFile
    service_account_impersonation_url: None = None

    def request(self) -> TokenRequest:
        """Raises OSError if there is no token."""
        token = self.credential_source.file.read_text(errors="replace").strip()
        body = {
            "grant_type": f"{_OAUTH}:grant-type:token-exchange",
            "audience": self.audience,
            "scope": _SCOPE,
            "requested_token_type": f"{_OAUTH}:token-type:access_token",
            "subject_token_type": self.subject_token_type,
            "subject_token": token,
        }
        return TokenRequest(
            method="POST",
            url=self.token_url,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(body).encode(),
            secrets=(token,),
        )


def own_token_request(environ: Mapping[str, str]) -> TokenRequest:
    """Where the token of the operator's own identity comes from. Raises Refused."""
    name = environ.get(FILE)
    if not name:
        # GKE answers with a token of the pod's identity; without Workload Identity, of the node's.
        return TokenRequest(
            url=f"{METADATA_SERVER}{_TOKEN_PATH}", headers={"Metadata-Flavor": "Google"}
        )
    try:
        return _ExternalAccount.model_validate_json(Path(name).read_bytes()).request()
    except ValidationError as error:
        raise Refused(
            f"{FILE} names a file that is no configuration of Workload Identity Federation"
            f" ({_problem(error)}): put the key of a service account into a Secret"
        ) from None
    except OSError as error:
        raise Refused(f"{FILE}: failed to read {error.filename}: {error.strerror}") from error


def _problem(error: ValidationError) -> str:
    """The first problem, without the value, which may be a secret."""
    first = error.errors(include_input=False, include_url=False)[0]
    return ": ".join([".".join(map(str, first["loc"])), first["msg"]]).removeprefix(": ")
