"""A tiny receiver of webhooks on loopback, for measurements: notes when each came, and says so when it is told to stop.

    .venv/bin/python -m bench.receiver PORT FILE

Writes to FILE a line for each request as it comes: the time in nanoseconds, a space, the body.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import TextIO

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def serve(port: int, path: Path) -> None:
    with path.open("w", encoding="utf-8", buffering=1) as notes:
        server = await asyncio.start_server(lambda r, w: _answer(r, w, notes), "127.0.0.1", port)
        async with server:
            await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, notes: TextIO) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
            body = await reader.readexactly(length)
            notes.write(f"{time.time_ns()} {body.decode()}\n")
            writer.write(ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
