"""One typed error for a database that is gone, slow or out of connections: STORAGE_UNAVAILABLE, which is retryable.

Left out: the driver's message. It may quote rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import sqlalchemy.exc

from adytum_wire.errors import AdytumError, Code

# What the driver raises when the server is away or slow, rather than when our SQL or our data is wrong.
UNAVAILABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended a connection in the midst of an exchange
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.UndefinedTableError,  # not migrated yet
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
)


@contextmanager
def typed(code: Code = Code.STORAGE_UNAVAILABLE) -> Iterator[None]:
    """Turn the driver's errors of availability into `AdytumError(code)`. What was in a transaction is undone."""
    try:
        yield
    except UNAVAILABLE:
        raise AdytumError(code, retry_after_ms=500) from None
    except sqlalchemy.exc.DBAPIError as error:
        if isinstance(error.orig.__cause__ if error.orig else None, UNAVAILABLE):
            raise AdytumError(code, retry_after_ms=500) from None
        raise
