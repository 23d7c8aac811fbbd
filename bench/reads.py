"""Reading over HTTP: the newest record of a channel, and page 100 beside page 1.

    .venv/bin/python -m bench.reads last  --seconds 5 --repeat 3
    .venv/bin/python -m bench.reads pages --repeat 3

last   GET /v2/stream/0 with X-ENDTIME: last, requests a second, beside a bare view of REST framework (no token, no
       limit, a fixed answer): in the same web process, whose middleware both pass, and in one without any middleware.
       With 1 and 8 connections kept alive; then once more with the token's requests counted.
pages  pages of 1,000 records of a range, following the Link: milliseconds over HTTP and in the database of page 1
       and of page 100, measured in turns.

1,000 devices, 11 numbers, about 200 bytes a record; durable PostgreSQL, web and client share the machine.
"""

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from bench.history import history_load
from bench.http_load import Load, load, request_bytes
from bench.site import COUNTED, Site, Web

RECORDS = 300_000
CONNECTIONS = (1, 8)
PAGE = 1_000
_LINK = re.compile(rb"(?i)\r\nlink: *<([^>]+)>")


def last(*, seconds: float, repeat: int) -> None:
    with Site() as site:
        history_load(site, count=RECORDS)
        web, slim = site.web(), site.web(middleware=False)
        print(f"web process {web.process.pid}, without middleware {slim.process.pid}", file=sys.stderr)
        headers = {"X-APITOKEN": site.account["api_token"], "X-ENDTIME": "last"}
        ours = request_bytes("/v2/stream/0", headers=headers)
        bare = request_bytes("/bare/api")

        def rate(of: Web, request: bytes, connections: int, *, seconds: float = seconds) -> Load:
            return load(of.port, lambda _n: request, connections=connections, seconds=seconds).require(200)

        for of, request in ((web, ours), (web, bare), (slim, bare)):
            rate(of, request, 8, seconds=1)
        for limit in (0, COUNTED):
            site.limits(limit)
            for connections in CONNECTIONS:
                for _ in range(repeat):
                    before = web.cpu_s
                    found = rate(web, ours, connections)
                    cpu_us = 1e6 * (web.cpu_s - before) / found.count
                    beside, least = rate(web, bare, connections), rate(slim, bare, connections)
                    print(
                        f"last, {connections} connections, {'counted' if limit else 'no limit'}: "
                        f"{found.rate:.0f}/s  bare view {beside.rate:.0f}/s  ratio {found.rate / beside.rate:.2f}  "
                        f"without middleware {least.rate:.0f}/s  ratio {found.rate / least.rate:.2f}  "
                        f"median {found.median_ms:.2f} ms, {cpu_us:.0f} us of the web process",
                        flush=True,
                    )


def pages(*, repeat: int) -> None:
    with Site() as site:
        begin, end, _ = history_load(site, count=RECORDS)
        web = site.web()
        query = urlencode({"start": begin.isoformat(), "end": end.isoformat(), "limit": PAGE})
        first = f"/v2/stream/0?{query}"
        hundredth = first
        for _ in range(99):
            hundredth = _next(_get(site, web, hundredth))
        _database = _page_queries(site, begin, end)
        for _ in range(repeat):
            http = _in_turns(lambda: _get(site, web, first), lambda: _get(site, web, hundredth))
            database = _in_turns(*_database)
            for name, (one, hundred) in (("over HTTP", http), ("in the database", database)):
                print(
                    f"page of {PAGE} {name}: page 1 {one:.2f} ms  page 100 {hundred:.2f} ms  ratio {hundred / one:.2f}"
                )
        for number, explain in enumerate(_explained(site, begin, end)):
            print(f"plan of page {1 if number == 0 else 100}:\n{explain}", file=sys.stderr)


def _get(site: Site, web: Web, path: str) -> bytes:
    request = request_bytes(path, headers={"X-APITOKEN": site.account["api_token"]})
    return load(web.port, lambda _n: request, connections=1, most=1).require(200).bodies[0]


def _next(answer: bytes) -> str:
    found = _LINK.search(answer)
    if found is None:
        raise RuntimeError("the page has no next one")
    parts = urlsplit(found[1].decode())
    return f"{parts.path}?{parts.query}"


def _in_turns(one: Callable[[], Any], other: Callable[[], Any], *, times: int = 30) -> tuple[float, float]:
    """The medians in milliseconds."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(times + 3):
        for call, found in zip((one, other), taken, strict=True):
            began = time.perf_counter()
            call()
            if number >= 3:
                found.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _statements(site: Site, begin: datetime, end: datetime) -> list[tuple[str, dict[str, Any]]]:
    """The service's own query for page 1 and page 100."""
    from streams.selectors import RecordFilter, RecordRow, _page_query, record_stream

    narrow = RecordFilter(channel_key=site.account["channel_key"], low=begin, high=end)
    rows: list[RecordRow] = list(record_stream(narrow, limit=99 * PAGE))
    return [
        _page_query(narrow, descending=False, after=after, limit=PAGE + 1)
        for after in (None, rows[-1].position)
    ]


def _page_queries(site: Site, begin: datetime, end: datetime) -> tuple[Callable[[], Any], Callable[[], Any]]:
    connection = site.connect()
    one, hundred = _statements(site, begin, end)

    def run(statement: tuple[str, dict[str, Any]]) -> Callable[[], Any]:
        sql, values = statement
        return lambda: connection.execute(cast(Any, sql), values).fetchall()

    return run(one), run(hundred)


def _explained(site: Site, begin: datetime, end: datetime) -> list[str]:
    with site.connect() as connection:
        return [
            "\n".join(
                str(row[0])
                for row in connection.execute(
                    cast(Any, f"EXPLAIN (ANALYZE, BUFFERS) {sql}"), values
                ).fetchall()
            )
            for sql, values in _statements(site, begin, end)
        ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("last", "pages"))
    parser.add_argument("--seconds", type=float, default=5, help="of each load of last")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what == "last":
        last(seconds=arguments.seconds, repeat=arguments.repeat)
    else:
        pages(repeat=arguments.repeat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
