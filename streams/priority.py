"""Work in the background gives way to what somebody waits for."""

import psutil

from streams.database import Connection

# A third of an ordinary process's share of a full machine: enough to keep up with what a full machine stores.
LOWER_BY = 5
LOWEST = 19


def give_way(own: Connection) -> bool:
    """Lower the priority of the server's process behind a connection; False where that cannot be done.

    Only a server on this machine has a process here, and only its own user or root may change it. Elsewhere the
    work goes on as quickly as the server lets it.
    """
    host = own.info.host
    if not (host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")):
        return False
    try:
        process = psutil.Process(own.info.backend_pid)
        if not process.cmdline()[0].startswith("postgres:"):  # a port that leads into a container
            return False
        process.nice(min(process.nice() + LOWER_BY, LOWEST))
    except (psutil.Error, OSError, IndexError):
        return False
    return True
