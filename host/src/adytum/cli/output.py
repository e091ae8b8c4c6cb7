"""How commands speak: tables for people, one JSON object for programs, and one line for what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg
import click
from alembic.util.exc import CommandError
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import DBAPIError

from adytum.backup.errors import BackupError
from adytum.client.errors import PendingError, RefusedError, UnreachableError, UntrustedError
from adytum.client.signers import SignerError
from adytum.releases.errors import ReleaseError
from adytum.rotation.errors import RotationError
from adytum.settings import SettingsError
from adytum.storage.embedded import EmbeddedPostgresError
from adytum.storage.errors import Fault, StorageError, sqlstate_of
from adytum_policy.document import QuorumError
from adytum_verify import AttestationError
from adytum_wire.errors import AdytumError

F = TypeVar("F", bound=Callable[..., Any])
_JSON = "adytum.json"
_WIDE = 10_000  # ids are never broken: they are there to be copied


def json_option(command: F) -> F:
    """Add `--json` to a command. `say` and `report_failures` look at it."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        ctx.meta[_JSON] = value

    return click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=remember, help="Print one JSON object."
    )(command)


def is_json() -> bool:
    return bool(click.get_current_context().meta.get(_JSON, False))


def say(data: Mapping[str, Any], *lines: str | Table) -> None:
    """`data` for programs, `lines` for people."""
    if is_json():
        click.echo(json.dumps(data, default=str))
        return
    console = Console(highlight=False, width=_WIDE)
    for line in lines:
        if isinstance(line, str):
            click.echo(line)
        else:
            console.print(line)


def table(*columns: str, rows: Sequence[Sequence[object]]) -> Table:
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def facts(pairs: Mapping[str, object]) -> str:
    """Name and value, one pair a line, aligned."""
    width = max(map(len, pairs), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs.items())


def could(names: Sequence[str], others: int) -> str:
    """Who could still approve: by name, and how many whom there was no room to name."""
    return ", ".join([*names, *([f"{others} others"] if others else [])]) or "nobody left"


@contextmanager
def report_failures(ctx: click.Context) -> Iterator[None]:
    """Turn what may go wrong into one line (or JSON object) and exit status 1."""
    try:
        yield
    except SettingsError as error:
        problems = [{"path": path, "text": text} for path, text in error.problems]
        lines = [f"  {path}: {text}" for path, text in error.problems]
        _fail(
            ctx, {"code": "SETTINGS_INVALID", "problems": problems}, "\n".join(["the settings are not usable:", *lines])
        )
    except StorageError as error:
        _fail(ctx, _described_fault(error), f"refused: {error}")
    except (AdytumError, AttestationError) as error:
        _fail(ctx, _described(error), _sentence(error))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as error:
        fault = StorageError(Fault.STATEMENT, sqlstate_of(error))  # never the driver's text: it quotes rows
        _fail(ctx, _described_fault(fault), f"refused: {fault}")
    except CommandError:
        fault = StorageError(Fault.MIGRATION)
        _fail(ctx, _described_fault(fault), f"refused: {fault}")
    except (BackupError, ReleaseError, RotationError) as error:
        _fail(ctx, {"code": error.code.value, "field": error.field, "text": error.code.text}, f"refused: {error}")
    except (SignerError, EmbeddedPostgresError) as error:
        _fail(ctx, {"code": "FAILED", "text": str(error)}, str(error))
    except OSError as error:
        text = f"{error.filename or 'system'}: {error.strerror or type(error).__name__}"
        _fail(ctx, {"code": "SYSTEM", "text": text}, text)
    except click.ClickException as error:  # click writes for people only
        if not ctx.meta.get(_JSON, False):
            raise
        code = "USAGE" if isinstance(error, click.UsageError) else "FAILED"
        click.echo(json.dumps({"error": {"code": code, "text": error.format_message()}}))
        ctx.exit(error.exit_code)


def _sentence(error: AdytumError | AttestationError) -> str:
    text = str(error)
    if isinstance(error, QuorumError):
        quorum = error.quorum
        missing = ", ".join(quorum.missing) or "nobody"
        text += f" {len(quorum.counted)} of {quorum.threshold} signed; not yet: {missing}."
    if isinstance(error, UntrustedError):
        return f"not trusted: {text}"
    if isinstance(error, PendingError):
        people = "; ".join(
            f"{w.count - len(w.counted)} more of {w.role} ({could(w.missing, w.others)})" for w in error.wanted
        )
        return f"not yet: request {error.request_id} waits for approvals. Wanted: {people or 'unknown'}"
    if isinstance(error, UnreachableError):
        again = f" It may have been carried out, as request {error.request_id}." if error.request_id else ""
        return f"not answered: {text}{again}"
    return f"refused: {text}"


def _described_fault(error: StorageError) -> dict[str, Any]:
    """Waiting does not mend it, which a program that tries again should know."""
    return {"code": error.fault.value, "field": error.detail, "text": error.fault.text, "retryable": False}


def _described(error: AdytumError | AttestationError) -> dict[str, Any]:
    data: dict[str, Any] = {"code": error.code.value, "field": error.field, "text": error.code.text}
    if isinstance(error, RefusedError):
        data["proven"] = error.receipt is not None
    if isinstance(error, UnreachableError):
        data["request_id"] = error.request_id
    if isinstance(error, PendingError):  # with the body its answer can be fetched: `adytum requests answer`
        data |= {"request_id": error.request_id, "body": error.body.decode(), "expires_at": error.expires_at}
    return data


def _fail(ctx: click.Context, data: Mapping[str, Any], text: str) -> None:
    if ctx.meta.get(_JSON, False):
        click.echo(json.dumps({"error": data}))
    else:
        click.echo(f"adytum: {text}", err=True)
    ctx.exit(1)
