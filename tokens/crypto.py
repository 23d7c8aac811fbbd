"""Keys and digests made from the one secret key: each purpose has its own key."""

import base64
import hashlib
import hmac
import secrets
from functools import cache

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

# Purposes of keyed digests.
DEVICE_TOKEN = "device-token"  # noqa: S105 - names a key, is none
API_TOKEN = "api-token"  # noqa: S105


@cache
def purpose_key(purpose: str) -> bytes:
    """A 32-byte key for one purpose; knowing it tells nothing about the others."""
    return hmac.new(settings.SECRET_KEY.encode(), f"servwatch/{purpose}".encode(), hashlib.sha256).digest()


def keyed_digest(purpose: str, text: str) -> str:
    """64 hex digits by which a secret is found again without being stored."""
    return hmac.new(purpose_key(purpose), text.encode(), hashlib.sha256).hexdigest()


def secret_new() -> str:
    """A secret of 192 random bits, safe in topics, URLs and shells (letters and digits only)."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(secrets.choice(alphabet) for _ in range(32))


def _fernet() -> Fernet:
    return Fernet(base64.urlsafe_b64encode(purpose_key("encryption")))


def encrypt(text: str) -> str:
    return _fernet().encrypt(text.encode()).decode()


def decrypt(ciphertext: str) -> str:
    """The text again. Raises ValueError when the secret key is not the one it was encrypted with."""
    try:
        return _fernet().decrypt(ciphertext.encode()).decode()
    except InvalidToken:
        raise ValueError("This was encrypted with another SERVWATCH_SECRET_KEY.") from None
