"""Is a port free, and if not, who has it?"""

import errno
import socket

import psutil

from servwatch_site.embedded.errors import EmbeddedError


def check_free(*, host: str, port: int, purpose: str, setting: str, host_setting: str) -> None:
    """Say in one sentence what is wrong with this address for a server, and what to do."""
    try:
        _bind(host, port)
    except socket.gaierror:
        raise EmbeddedError(f"{host_setting} is {host!r}, which is no address of this machine.") from None
    except OSError as error:
        raise EmbeddedError(
            _sentence(
                error, host=host, port=port, purpose=purpose, setting=setting, host_setting=host_setting
            )
        ) from None


def _bind(host: str, port: int) -> None:
    """As the servers do it: an address left over from a closed connection is no obstacle."""
    family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
        trial.listen(1)


def _sentence(error: OSError, *, host: str, port: int, purpose: str, setting: str, host_setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} for {purpose} is taken{_holder(port)}. Stop that, or choose another port: "
            f"{setting}={_next_free(host, port)} make run"
        )
    if error.errno == errno.EACCES:
        return (
            f"Port {port} for {purpose} is open to root only. Choose one above 1023: {setting}=PORT make run"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host_setting} is {host!r}, which is no address of this machine."
    return f"Port {port} for {purpose} cannot be opened on {host}: {error.strerror}."


def _holder(port: int) -> str:
    """` by NAME (process N)` where the system tells us; other users' processes it does not."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            here = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not here or not connection.pid:
                continue
            if here[1] == port:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):
        return ""
    return ""


def _next_free(host: str, port: int) -> int:
    for candidate in range(port + 1, min(port + 100, 65536)):
        try:
            _bind(host, candidate)
        except OSError:
            continue
        return candidate
    return port + 1
