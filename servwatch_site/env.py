"""Reads settings from the environment; nonsense stops the start with one sentence."""

import os
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

# A connection whose other end has gone without a word counts as dead after some 20 seconds; the system's own answer is
# two hours. SESSION is the server's half: it would keep the locks of a client that has vanished for as long.
CONNECTION = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
}
SESSION = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2"


def env_text(name: str, default: str = "") -> str:
    return os.environ.get(name, default).strip()


def env_int(name: str, default: int, *, low: int, high: int) -> int:
    """A whole number between `low` and `high`, both included."""
    text = env_text(name)
    if not text:
        return default
    try:
        number = int(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {text!r}.") from None
    if not low <= number <= high:
        raise ImproperlyConfigured(f"{name} must lie between {low} and {high}, not {number}.")
    return number


def env_bool(name: str, default: bool) -> bool:
    text = env_text(name).lower()
    if not text:
        return default
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ImproperlyConfigured(f"{name} must be true or false, not {text!r}.")


def env_list(name: str, default: Sequence[str] = ()) -> list[str]:
    """Comma-separated words."""
    text = env_text(name)
    return [word.strip() for word in text.split(",") if word.strip()] if text else list(default)


def env_networks(name: str) -> list[IPv4Network | IPv6Network]:
    """Comma-separated networks such as `10.1.0.0/16`, or single addresses."""
    found = []
    for word in env_list(name):
        try:
            found.append(ip_network(word))
        except ValueError as error:
            raise ImproperlyConfigured(
                f"{name} must be a list of networks such as 10.1.0.0/16: {error}."
            ) from None
    return found


def database_from_url(url: str) -> dict[str, Any]:
    """Django's database settings from `postgresql://user:password@host:port/name?option=value`.

    `host` may be given as an option, as libpq does for a Unix socket: `postgresql:///name?host=/folder`. Options of
    CONNECTION and SESSION can be given, too; these are what they are without.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured(
            "DATABASE_URL must begin with postgresql://; only PostgreSQL is supported."
        )
    options = dict(parse_qsl(parts.query))
    try:
        port = parts.port
    except ValueError:
        raise ImproperlyConfigured("DATABASE_URL has a port that is not a number.") from None
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "servwatch",
        "USER": unquote(parts.username or "") or options.pop("user", ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", "") or parts.hostname or "",
        "PORT": str(port or options.pop("port", "")),
        "OPTIONS": {**CONNECTION, **options, "options": f"{SESSION} {options.get('options', '')}".strip()},
    }
