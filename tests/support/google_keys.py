"""Keys of service accounts as Google hands them out."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_key(key: rsa.RSAPrivateKey) -> str:
    """The PEM of a key."""
    form, encryption = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def public_key(key: rsa.RSAPrivateKey) -> str:
    """The PEM of the public part of a key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def service_account_key(key: rsa.RSAPrivateKey) -> dict[str, str]:
    """What the JSON of a key contains."""
    return {
        "type": "service_account",
        "project_id": "fleet",
        "private_key_id": "0123abcd",
        "private_key": private_key(key),
        "client_email": "gpuid@fleet.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
