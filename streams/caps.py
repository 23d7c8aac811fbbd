"""How much of what is refused is kept: bounded rows and bytes per account, beyond them only counted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from devices.registry import Registry
from streams.writer import RefusedRow

ASK_AGAIN_S = 10.0
NOBODYS_ROWS, NOBODYS_BYTES = 1_000, 16 * 1024 * 1024  # messages whose token belongs to nobody


@dataclass
class _Kept:
    rows: int
    size: int
    asked_at: float


class RefusedCaps:
    """Remembers for some seconds how much each account keeps; several writers may pass a cap by what they
    add within that time."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    def keep(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], refused: Sequence[RefusedRow], *, registry: Registry
    ) -> list[RefusedRow]:
        """The rows that still fit."""
        return [row for row in refused if self._fits(cursor, row, registry=registry)]

    def _fits(self, cursor: psycopg.Cursor[tuple[Any, ...]], row: RefusedRow, *, registry: Registry) -> bool:
        account = registry.account(cursor, row.account_key) if row.account_key else None
        rows, size = (
            (account.kept_refused_rows, account.kept_refused_bytes)
            if account
            else (NOBODYS_ROWS, NOBODYS_BYTES)
        )
        kept = self._now_kept(cursor, row.account_key)
        if kept.rows >= rows or kept.size + len(row.payload) > size:
            return False
        kept.rows += 1
        kept.size += len(row.payload)
        return True

    def _now_kept(self, cursor: psycopg.Cursor[tuple[Any, ...]], account_key: int) -> _Kept:
        kept = self._kept.get(account_key)
        if kept is None or time.monotonic() - kept.asked_at > ASK_AGAIN_S:
            cursor.execute(
                "SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM streams_refusedmessage"
                " WHERE account_key = %s",
                [account_key],
            )
            rows, size = cursor.fetchone() or (0, 0)
            kept = self._kept[account_key] = _Kept(rows, int(size), time.monotonic())
        return kept
