"""Typed errors for a database that cannot be used: one that is gone, slow or full, and one that is set up wrongly.

Both are STORAGE_UNAVAILABLE to a client, who can only come again later. To the operator they are not the same: what
waiting cannot mend is a `StorageError`, whose `fault` says what to look at. Left out: the driver's message. It may
quote rows.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import sqlalchemy.exc

from adytum_wire.errors import AdytumError, Code

_RETRY_MS = 500
_RETRY_FAULT_MS = 5000  # somebody must do something first
_TLS_FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})

# What the driver raises when the server is away or slow, or does not let us, rather than when our data are wrong.
UNAVAILABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended a connection in the midst of an exchange
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,  # input and output errors of the server's own
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,  # not migrated yet
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
)


class Fault(StrEnum):
    """Stable codes of what waiting does not mend; the sentence of each is fixed and says what to do."""

    DSN = "DATABASE_DSN_INVALID"
    MISSING = "DATABASE_MISSING"
    LOGIN = "DATABASE_LOGIN_REFUSED"
    TLS = "DATABASE_TLS_INVALID"
    PRIVILEGES = "DATABASE_PRIVILEGES_MISSING"
    SCHEMA_MISSING = "SCHEMA_MISSING"
    SCHEMA_OLDER = "SCHEMA_OLDER"
    SCHEMA_UNKNOWN = "SCHEMA_UNKNOWN"
    REVISION_UNKNOWN = "REVISION_UNKNOWN"
    MIGRATION = "MIGRATION_FAILED"
    GRANT = "GRANT_INCOMPLETE"
    STATEMENT = "DATABASE_STATEMENT_FAILED"

    @property
    def text(self) -> str:
        return _TEXTS[self]


_TEXTS = {
    Fault.DSN: "database.dsn cannot be read: it should look like postgresql://user@host:port/database?option=value.",
    Fault.MISSING: "The server has no database of that name: make it, or correct database.dsn.",
    Fault.LOGIN: "The server does not let this user in: look at user and password in database.dsn, and at pg_hba.conf.",
    Fault.TLS: "A certificate or key that database.dsn names cannot be used, or the server's certificate is refused.",
    Fault.PRIVILEGES: "The login may not do this: see `adytum migrate grant`, and which role the login was granted.",
    Fault.SCHEMA_MISSING: "Tables or columns of Adytum are not there: run `adytum migrate up`.",
    Fault.SCHEMA_OLDER: "The schema is older than this program: run `adytum migrate up`, or `adytum serve --migrate`.",
    Fault.SCHEMA_UNKNOWN: "This program does not know the schema's revision: it is of a newer one. Update the program.",
    Fault.REVISION_UNKNOWN: "There is no such revision to go to; `adytum migrate status` names what there is.",
    Fault.MIGRATION: "The migration did not run; the schema is at a whole revision (`adytum migrate status`).",
    Fault.GRANT: "The rights would not be what they should be, so nothing was changed: run it as a superuser, as the"
    " database's owner, or with a login that has adytum_migrator.",
    Fault.STATEMENT: "The database refused a statement; nothing of it was done.",
}


class StorageError(AdytumError):
    """`fault` is stable; `detail` names a revision, a right or an SQLSTATE, or is empty; `field` says both."""

    def __init__(self, fault: Fault, detail: str = "", *, code: Code = Code.STORAGE_UNAVAILABLE) -> None:
        super().__init__(code, f"{fault.value}: {detail}" if detail else fault.value, retry_after_ms=_RETRY_FAULT_MS)
        self.fault = fault
        self.detail = detail

    def __str__(self) -> str:
        where = f" ({self.detail})" if self.detail else ""
        return f"{self.fault.value}{where}: {self.fault.text}"


@contextmanager
def typed(code: Code = Code.STORAGE_UNAVAILABLE) -> Iterator[None]:
    """Turn the driver's errors of availability into `AdytumError(code)`. What was in a transaction is undone."""
    try:
        yield
    except UNAVAILABLE as error:
        raise _typed(error, code) from None
    except sqlalchemy.exc.DBAPIError as error:
        cause = driver_error(error)
        if isinstance(cause, UNAVAILABLE):
            raise _typed(cause, code) from None
        raise


@contextmanager
def connecting(dsn: str, code: Code = Code.STORAGE_UNAVAILABLE) -> Iterator[None]:
    """Likewise around what opens a connection: whatever the server says to a newcomer, it is not there for us."""
    try:
        yield
    except AdytumError:
        raise
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        if isinstance(error, FileNotFoundError | PermissionError) and _lacks_tls_file(dsn):
            raise StorageError(Fault.TLS, code=code) from None
        raise _typed(error, code) from None
    except ValueError:  # the driver's own parser, of ports and addresses
        raise StorageError(Fault.DSN, code=code) from None


def driver_error(error: sqlalchemy.exc.DBAPIError) -> BaseException | None:
    """What asyncpg raised underneath."""
    return error.orig.__cause__ if error.orig is not None else None


def sqlstate_of(error: BaseException) -> str:
    """ "SQLSTATE 42P01", or the error's kind; never its message."""
    cause = driver_error(error) if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    state = getattr(cause, "sqlstate", None)
    return f"SQLSTATE {state}" if state else type(cause or error).__name__


def fault_of(error: BaseException) -> Fault | None:
    """None when waiting may help."""
    match error:
        case asyncpg.ClientConfigurationError():
            return Fault.DSN
        case asyncpg.InvalidCatalogNameError():
            return Fault.MISSING
        case asyncpg.InvalidAuthorizationSpecificationError():
            return Fault.LOGIN
        case asyncpg.InsufficientPrivilegeError():
            return Fault.PRIVILEGES
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError() | asyncpg.UndefinedFunctionError():
            return Fault.SCHEMA_MISSING
        case asyncpg.InvalidSchemaNameError():
            return Fault.SCHEMA_MISSING
        case ssl.SSLCertVerificationError():
            return Fault.TLS
        case ssl.SSLError() if error.library in ("X509", "PEM"):  # a file, not the line
            return Fault.TLS
    return None


def _typed(error: BaseException, code: Code) -> AdytumError:
    fault = fault_of(error)
    if fault is not None:
        return StorageError(fault, code=code)
    return AdytumError(code, retry_after_ms=_RETRY_MS)


def _lacks_tls_file(dsn: str) -> bool:
    try:
        named = [value for key, value in parse_qsl(urlsplit(dsn).query) if key in _TLS_FILES]
        return any(not Path(name).is_file() for name in named)
    except (ValueError, OSError):
        return False
