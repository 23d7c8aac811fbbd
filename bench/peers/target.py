"""What can be put under load here: a peer or Servwatch, with the same handles on each."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from bench.peers.generator import Generator, Poster, Request
from bench.peers.probe import Probe


@dataclass(frozen=True)
class Victim:
    """A part that can be killed with signal 9 and started again. Neither waits until the part is ready."""

    kill: Callable[[], None]
    restart: Callable[[], None]


class Target(ABC):
    """`with Target() as target:` starts everything in a temporary folder and on free loopback ports."""

    name: ClassVar[str]
    acknowledgement: ClassVar[str]  # what the sender knows when it has its answer

    def __init__(self) -> None:
        self.path = Path()
        self.exit = ExitStack()  # what has to be ended, the last begun first

    def __enter__(self) -> Self:
        folder = tempfile.TemporaryDirectory(prefix="servwatch-peer-", ignore_cleanup_errors=True)
        self.path = Path(self.exit.enter_context(folder))
        try:
            self.start()
        except BaseException:
            self.exit.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.exit.close()

    @abstractmethod
    def start(self) -> None:
        """Returns when reports can be sent. Raises PeerMissing before anything was started."""

    @abstractmethod
    def generator(self, first: int) -> Generator:
        """Drives the target with reports that are numbered from `first` on."""

    @abstractmethod
    def stored_numbers(self) -> list[int]:
        """The number of every report that is stored, as often as it is."""

    @abstractmethod
    def stored(self) -> int:
        """How many reports are stored, counted; without the probe's."""

    @abstractmethod
    def processes(self) -> dict[str, list[psutil.Process]]:
        """By the name of the group."""

    @property
    @abstractmethod
    def victims(self) -> Mapping[str, Victim]:
        """What can be killed, by its name."""


class Store(Target):
    """A target that takes requests over HTTP, with one report or a thousand of one device."""

    @property
    @abstractmethod
    def port(self) -> int: ...

    @abstractmethod
    def request(self, numbers: range) -> Request: ...

    def generator(self, first: int) -> Generator:
        return Poster(port=self.port, request=self.request, first=first)


class Platform(Target):
    """A target whose sustained rate is looked for."""

    known_good: ClassVar[int]  # reports a second at which the search begins

    @abstractmethod
    def progress(self) -> int:
        """How many reports are stored, by a quick count: some dozens off, and it may include the probe's."""

    @abstractmethod
    def probe(self) -> Probe:
        """One more device beside the load."""
