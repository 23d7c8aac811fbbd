"""What drives a peer: reports at a fixed rate, with a log of those that were acknowledged.

bench.publisher.Publisher is one for everything that speaks MQTT; Sender speaks Zabbix's protocol, Poster HTTP.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple, Protocol

from bench.peers import trapper
from bench.publisher import Log

CONNECTIONS = 4
PATIENCE_S = 60.0
RETRY_S = 0.05


class Generator(Protocol):
    """Reports are counted from 0 in each generator's log."""

    log: Log

    def run(self, *, rate: float, count: int, each_second: Callable[[float], None]) -> float:
        """Send `count` reports at `rate` a second; seconds until the last was acknowledged, or patience ended."""

    def close(self) -> None: ...


class Sender:
    """Zabbix's sender: four connections at once, each made for one request of so many reports."""

    def __init__(self, *, port: int, first: int, reports_a_request: int) -> None:
        self.log = Log()
        self._port = port
        self._first = first
        self._size = reports_a_request
        self._errors: list[Exception] = []

    def run(self, *, rate: float, count: int, each_second: Callable[[float], None]) -> float:
        began = time.monotonic()
        until = began + count / rate + PATIENCE_S
        starts = iter(range(0, count, self._size))
        threads = [
            threading.Thread(target=self._work, args=(starts, began, until, rate, count))
            for _ in range(CONNECTIONS)
        ]
        for thread in threads:
            thread.start()
        for second in itertools.count(1):
            for thread in threads:
                thread.join(max(0.0, began + second - time.monotonic()))
            if not any(thread.is_alive() for thread in threads):
                break
            each_second(time.monotonic() - began)
        if self._errors:
            raise self._errors[0]
        return time.monotonic() - began

    def close(self) -> None:
        """Nothing is open between requests."""

    def _work(self, starts: Iterator[int], began: float, until: float, rate: float, count: int) -> None:
        try:
            for start in starts:
                time.sleep(max(0.0, began + start / rate - time.monotonic()))
                numbers = range(start, min(count, start + self._size))
                if not self._hand_over(numbers, until):
                    return
                self.log.acknowledged.update(numbers)
        except Exception as error:  # told by run(), in the thread that waits
            self._errors.append(error)

    def _hand_over(self, numbers: range, until: float) -> bool:
        """Try again and again while the server is away, as a sender with a buffer does; false when time is up."""
        clock = int(time.time())
        items = [text for n in numbers for text in trapper.report_items(self._first + n, clock=clock)]
        self.log.sent.update(numbers)
        while time.monotonic() < until:
            try:
                trapper.hand_over(self._port, items)
            except OSError:
                time.sleep(RETRY_S)
            else:
                return True
        return False


class Request(NamedTuple):
    """A POST over HTTP."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Poster:
    """One connection over HTTP, 1,000 reports a request; a request is repeated until it is acknowledged."""

    SIZE = 1_000

    def __init__(self, *, port: int, request: Callable[[range], Request], first: int) -> None:
        self.log = Log()
        self._request = request
        self._first = first
        self._client = HTTPConnection("127.0.0.1", port, timeout=10)

    def run(self, *, rate: float, count: int, each_second: Callable[[float], None]) -> float:
        began = told = time.monotonic()
        until = began + count / rate + PATIENCE_S
        for start in range(0, count, self.SIZE):
            numbers = range(start, min(count, start + self.SIZE))
            request = self._request(range(self._first + numbers.start, self._first + numbers.stop))
            due = began + start / rate
            self.log.sent.update(numbers)
            while True:
                now = time.monotonic()
                if now > until:
                    return now - began
                if now - told >= 1:
                    told = now
                    each_second(now - began)
                if now < due:
                    time.sleep(min(due - now, RETRY_S))
                elif self._post(request):
                    break
                else:
                    due = now + RETRY_S
            self.log.acknowledged.update(numbers)
        return time.monotonic() - began

    def close(self) -> None:
        self._client.close()

    def _post(self, request: Request) -> bool:
        """Whether it was acknowledged. A refusal is no acknowledgement either: the server may be starting."""
        try:
            self._client.request("POST", request.path, body=request.body, headers=request.headers)
            answer = self._client.getresponse()
            answer.read()
        except (OSError, HTTPException):
            self._client.close()
            return False
        return 200 <= answer.status < 300
