"""The version of the configuration: how the write street and the broker learn that something changed."""

from django.db import connection, transaction

CONFIG_NOTIFY = "servwatch_config"


def config_version() -> int:
    """The number of the newest committed change."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT version FROM tokens_configversion WHERE id = 1")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def config_bump() -> int:
    """Count one change in the current transaction, and return its number to be kept in the changed row.

    Must run inside a transaction: the lock on the row is what puts changes in order.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError(
            "config_bump() needs the transaction of the change it counts."
        )
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tokens_configversion SET version = version + 1 WHERE id = 1 RETURNING version")
        (version,) = cursor.fetchone()
    transaction.on_commit(_wake)
    return int(version)


def _wake() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {CONFIG_NOTIFY}")
