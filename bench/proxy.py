"""A TCP proxy between two processes that talk, to cut, hold or silence their connections.

It is a process of its own, so that it never waits for whoever uses it. Silence is real: a filter on the sockets makes
the kernel drop every segment, so that nothing is acknowledged and no probe answered, as when a machine or its network
has gone. That needs no privilege, but Linux, and TCP on both ends.
"""

import asyncio
import contextlib
import ctypes
import multiprocessing
import signal
import socket
import struct
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

CHUNK_BYTES = 64 * 1024
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # one instruction: keep 0 bytes
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
START_S, ANSWER_S = 30.0, 10.0


class Proxy:
    """`with Proxy(("127.0.0.1", 1883)) as proxy:`, then `proxy.port`. Its methods return when it is done."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self.port = 0

    def __enter__(self) -> Self:
        spawn = multiprocessing.get_context("spawn")
        self._control, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_run, args=(self._upstream, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.port = int(self._answer(START_S))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._process.join()

    def cut(self) -> None:
        """Reset all connections, whatever was on its way; new ones are taken."""
        self._ask("cut")

    def refuse(self) -> None:
        """Reset every new connection at once."""
        self._ask("refuse")

    def hold_requests(self) -> None:
        """Keep back what clients send; the kernel acknowledges it, the upstream does not see it."""
        self._ask("hold_requests")

    def hold_answer(self, *, after: bytes) -> None:
        """From the first connection whose client sends `after`, keep back what the upstream answers."""
        self._ask("hold_answer", after)

    def held_bytes(self) -> int:
        return int(self._ask("held_bytes"))

    def silence(self, *, new: bool) -> None:
        """Drop every segment of the connections there are, and with `new` of those that are tried."""
        self._ask("silence", new)

    def heal(self) -> None:
        """No holding, refusing and silence any more; what was sent meanwhile arrives."""
        self._ask("heal")

    def _ask(self, name: str, *arguments: Any) -> Any:
        self._control.send((name, arguments))
        return self._answer(ANSWER_S)

    def _answer(self, timeout_s: float) -> Any:
        if not self._control.poll(timeout_s):
            raise RuntimeError("the proxy does not answer")
        return self._control.recv()


class Way:
    """One direction of one connection."""

    def __init__(self) -> None:
        self.flows = asyncio.Event()
        self.flows.set()
        self.held_bytes = 0

    async def pass_on(self, target: socket.socket, data: bytes) -> None:
        if not self.flows.is_set():
            self.held_bytes += len(data)
            await self.flows.wait()
        await asyncio.get_running_loop().sock_sendall(target, data)


class Link:
    """A client's connection and the one made for it to the upstream."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.upstream = socket.socket()
        self.requests, self.answers = Way(), Way()
        self.task: asyncio.Task[None] | None = None
        for end in self.ends:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def ends(self) -> tuple[socket.socket, socket.socket]:
        return self.client, self.upstream

    def close(self, *, reset: bool) -> None:
        for end in self.ends:
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            end.close()


class Forwarder:
    """What runs in the proxy's process."""

    def __init__(self, server: socket.socket, upstream: tuple[str, int]) -> None:
        self._server = server
        self._upstream = upstream
        self._links: list[Link] = []
        self._refuses = False
        self._awaited = b""

    async def accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._server)
            link = Link(client)
            if self._refuses:
                link.close(reset=True)
                continue
            self._links.append(link)
            link.task = loop.create_task(self._serve(link))

    async def cut(self) -> None:
        links, self._links = self._links, []
        for link in links:
            if link.task is not None:
                link.task.cancel()
                await asyncio.wait([link.task])
            link.close(reset=True)

    async def refuse(self) -> None:
        self._refuses = True

    async def hold_requests(self) -> None:
        for link in self._links:
            link.requests.flows.clear()

    async def hold_answer(self, after: bytes) -> None:
        self._awaited = after

    async def held_bytes(self) -> int:
        return sum(way.held_bytes for link in self._links for way in (link.requests, link.answers))

    async def silence(self, new: bool) -> None:
        program = struct.pack("HP", 1, ctypes.addressof(DROP_ALL))
        for end in self._sockets(server=new):
            end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    async def heal(self) -> None:
        self._refuses = False
        self._awaited = b""
        for end in self._sockets(server=True):
            with contextlib.suppress(OSError):  # it had no filter
                end.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        for link in self._links:
            link.requests.flows.set()
            link.answers.flows.set()

    def _sockets(self, *, server: bool) -> list[socket.socket]:
        return [end for link in self._links for end in link.ends] + [self._server] * server

    async def _serve(self, link: Link) -> None:
        reset = False
        try:
            await asyncio.get_running_loop().sock_connect(link.upstream, self._upstream)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._requests(link))
                both.create_task(self._answers(link))
        except* OSError:
            reset = True
        link.close(reset=reset)
        self._links.remove(link)

    async def _requests(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(link.client, CHUNK_BYTES):
            if self._awaited and self._awaited in data:
                self._awaited = b""
                link.answers.flows.clear()
            await link.requests.pass_on(link.upstream, data)
        _end_of_stream(link.upstream)

    async def _answers(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(link.upstream, CHUNK_BYTES):
            await link.answers.pass_on(link.client, data)
        _end_of_stream(link.client)


def _end_of_stream(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def _run(upstream: tuple[str, int], control: "Connection[Any, Any]") -> None:
    """The process: forward, and do what is asked, until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the parent
    asyncio.run(_forward(upstream, control))


async def _forward(upstream: tuple[str, int], control: "Connection[Any, Any]") -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        forwarder = Forwarder(server, upstream)
        accepting = asyncio.create_task(forwarder.accept())
        control.send(server.getsockname()[1])
        asked = asyncio.Event()
        asyncio.get_running_loop().add_reader(control.fileno(), asked.set)
        with contextlib.suppress(EOFError):
            while await asked.wait():
                asked.clear()
                if control.poll():
                    name, arguments = control.recv()
                    control.send(await getattr(forwarder, name)(*arguments))
        asyncio.get_running_loop().remove_reader(control.fileno())
        accepting.cancel()
        await forwarder.cut()
