"""What is watched: where secrets are made, opened or sealed, and where databases, logs and printed lines end.

Only at places that every deployment passes, so that a new test needs to do nothing. Each hook writes to the spool and
changes nothing else. The plugin watches the test's own process; `watch_child` a child process that a test starts.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import leaks.lazy as lazy
from leaks.spool import Spool, label

LOGGERS = ("adytum", "uvicorn", "httpx", "asyncpg", "alembic", "pgqueuer", "starlette", "sqlalchemy.engine")


def watch(spool: Spool) -> None:
    """From now on in this process, whatever is imported already or later."""
    lazy.install({name: functools.partial(hook, spool) for name, hook in HOOKS.items()})


def watch_child(directory: str) -> None:
    """In a child process: what it says is kept, at the levels that it sets itself."""
    spool = Spool(Path(directory))
    watch(spool)
    keep_log(spool, LOGGERS[:1])


def keep_log(spool: Spool, loggers: Sequence[str] = LOGGERS) -> Callable[[], None]:
    """Every line that any logger of this process says, `loggers` at DEBUG, goes to a file, one for each test. Returns
    what ends it. No handler is added: one at the root would make `logging.basicConfig` do nothing."""
    kept, inner = _Log(spool), logging.Logger.callHandlers

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        kept.keep(record)
        inner(self, record)

    def end() -> None:
        logging.Logger.callHandlers = inner  # type: ignore[method-assign]

    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]
    for name in loggers:
        logging.getLogger(name).setLevel(logging.DEBUG)
    return end


class _Log:
    """Written line by line: a test may kill this process at any time."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._format = logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s")
        self._label = ""
        self._file = -1
        self._lock = threading.Lock()

    def keep(self, record: logging.LogRecord) -> None:
        try:
            line = self._format.format(record)
        except (TypeError, ValueError):
            line = repr((record.msg, record.args))
        with self._lock:
            if label() != self._label:
                if self._file >= 0:
                    os.close(self._file)
                self._label, self._file = label(), self._spool.open_file("service log")
            os.write(self._file, line.encode(errors="surrogateescape") + b"\n")


def _wrap(holder: Any, name: str, after: Callable[..., None]) -> None:
    """`after(result, *arguments)` runs when the function has returned."""
    inner = getattr(holder, name)

    @functools.wraps(inner)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = inner(*arguments, **named)
        after(result, *arguments, **named)
        return result

    setattr(holder, name, wrapped)


# Keys of people: principals, admins, approvers, holders of recovery keys, recipients, passkeys, sessions.


def _curve25519(spool: Spool, module: ModuleType) -> None:
    for name in ("Ed25519PrivateKey", "X25519PrivateKey"):
        if (kind := getattr(module, name, None)) is not None:
            for maker in ("generate", "from_private_bytes"):
                _wrap_maker(spool, kind, maker)


def _wrap_maker(spool: Spool, kind: Any, maker: str) -> None:
    inner = getattr(kind, maker)

    def made(*arguments: Any, **named: Any) -> Any:
        key = inner(*arguments, **named)
        spool.secret(f"{kind.__name__} of a test", key.private_bytes_raw())
        return key

    setattr(kind, maker, staticmethod(functools.wraps(inner)(made)))


def _curves(spool: Spool, module: ModuleType) -> None:
    def made(key: Any, *_: Any, **__: Any) -> None:
        number = key.private_numbers().private_value
        spool.secret(f"{key.curve.name} key of a test", number.to_bytes((key.curve.key_size + 7) // 8, "big"))

    _wrap(module, "generate_private_key", made)
    _wrap(module, "derive_private_key", made)


def _sessions(spool: Spool, module: ModuleType) -> None:
    inner = module.Session.__new__

    def made(kind: Any, *arguments: Any, **named: Any) -> Any:
        session = inner(kind, *arguments, **named)
        spool.secret("key of a session", session.key)
        return session

    module.Session.__new__ = made


# What is sealed to somebody: imports, their passwords, exports, recovery shares, unsealed texts.


class _Suite:
    """A suite of `cryptography`, which does not let us inherit from its own."""

    def __init__(self, spool: Spool, suite: Any) -> None:
        self._spool = spool
        self._suite = suite

    def encrypt(self, plaintext: bytes, *arguments: Any, **named: Any) -> bytes:
        self._spool.secret("plaintext sealed by HPKE", plaintext)
        return self._suite.encrypt(plaintext, *arguments, **named)

    def decrypt(self, *arguments: Any, **named: Any) -> bytes:
        plaintext = self._suite.decrypt(*arguments, **named)
        self._spool.secret("plaintext opened by HPKE", plaintext)
        return plaintext


def _client_hpke(spool: Spool, module: ModuleType) -> None:
    module._SUITE = _Suite(spool, module._SUITE)


def _tests_hpke(spool: Spool, module: ModuleType) -> None:
    module.SUITE = _Suite(spool, module.SUITE)


# KMS: its keys, its data keys, the credentials that it believes.


def _kms_keys(spool: Spool, module: ModuleType) -> None:
    known: set[bytes] = set()

    def sealed(blob: bytes, key: Any, plaintext: bytes, *_: Any, **__: Any) -> None:
        spool.sealed(blob, plaintext)
        for backing in set(key.backing) - known:
            known.add(backing)
            spool.secret("KMS key", backing)

    _wrap(module, "seal", sealed)


def _kms_credentials(spool: Spool, module: ModuleType) -> None:
    def made(_: None, credentials: Any, *__: Any, **___: Any) -> None:
        spool.secret("AWS secret access key", credentials.secret_access_key.encode())
        spool.secret("AWS session token", (credentials.session_token or "").encode())

    _wrap(module.Credentials, "__init__", made)


# Records, and the paths below a seed that were used.


def _messages(spool: Spool, module: ModuleType) -> None:
    def decoded(reply: Any, *_: Any, **__: Any) -> None:
        if isinstance(reply, module.ExecuteReply) and reply.record is not None:
            record = reply.record
            spool.record(record.header, record.ciphertext_blob, record.data_key_ciphertext)

    def encoded(_: bytes, message: Any, *__: Any, **___: Any) -> None:
        if isinstance(message, module.Execute) and b'"path"' in message.body:
            try:
                body = json.loads(message.body)
                key, path = body["key_id"], body["path"]
            except (ValueError, KeyError, TypeError):
                return  # not a request of ours: attacks send anything
            if path and isinstance(key, str) and isinstance(path, str):
                spool.path_used(key, path)

    _wrap(module, "decode_reply", decoded)
    _wrap(module, "encode", encoded)


# Where the files end.


def _enclaves(spool: Spool, module: ModuleType) -> None:
    import msgspec

    inner_init, inner_end = module.EnclaveProcess.__init__, module.EnclaveProcess._end

    def init(self: Any, config: Any, *arguments: Any, **named: Any) -> None:
        told = msgspec.structs.replace(config, told=str(spool.random_file()))
        inner_init(self, told, *arguments, **named)

    async def end(self: Any, *arguments: Any, **named: Any) -> None:
        await inner_end(self, *arguments, **named)
        lines, self.log_kept = self.log[getattr(self, "log_kept", 0) :], len(self.log)
        if lines:
            spool.count("enclave")
            spool.file("enclave log", "\n".join(lines).encode())

    module.EnclaveProcess.__init__ = init
    module.EnclaveProcess._end = end


def _guests(spool: Spool, module: ModuleType) -> None:
    stop = module.GuestEnclave.stop

    async def stopped(self: Any) -> None:
        is_running = self._booted is not None
        await stop(self)
        if is_running:
            spool.count("enclave")
            spool.file("enclave log", "\n".join(self.log).encode(errors="surrogateescape"))

    module.GuestEnclave.stop = stopped


def _postgres(spool: Spool, module: ModuleType) -> None:
    start, stop = module.EmbeddedPostgres.start, module.EmbeddedPostgres.stop

    def started(self: Any) -> None:
        start(self)
        spool.count("database started")

    def stopped(self: Any) -> None:
        try:
            _last_look(spool, module, self)
        finally:
            stop(self)

    module.EmbeddedPostgres.start = started
    module.EmbeddedPostgres.stop = stopped


def _last_look(spool: Spool, module: ModuleType, server: Any) -> None:
    """All databases of a server and its log. One that was killed has no dump; it is counted."""
    process = server._process
    if process is None:
        return
    command = [str(module.binary("pg_dumpall")), "--inserts", "--no-owner", "-d", server.dsn()]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        spool.count("database dumped")
    else:
        spool.count("database down at its end")
    spool.file("dump", done.stdout)
    log = server._directory / "log"
    if log.exists():
        spool.file("PostgreSQL log", log.read_bytes())


def _dropped(spool: Spool, module: ModuleType) -> None:
    """A database that is dropped is copied out before."""
    inner = module.Connection.execute

    async def execute(self: Any, query: str, *arguments: Any, **named: Any) -> Any:
        if query.startswith("DROP DATABASE "):
            await _copy_out(spool, module, query.split()[2].strip('";'), self)
        return await inner(self, query, *arguments, **named)

    module.Connection.execute = execute


_FILLED = (
    "SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND pg_relation_size(c.oid) > 0"
)


async def _copy_out(spool: Spool, module: ModuleType, name: str, connection: Any) -> None:
    import asyncpg

    address, parameters = connection._addr, connection._params
    host = str(Path(address).parent) if isinstance(address, str) else address[0]
    copied: list[bytes] = []

    async def keep(data: bytes) -> None:
        copied.append(bytes(data))

    try:
        other = await asyncpg.connect(host=host, user=parameters.user, database=name)
    except asyncpg.PostgresError:
        spool.count("database down at its end")
        return
    try:
        for table in await other.fetch(_FILLED):
            await other.copy_from_table(table["name"], schema_name=table["schema"], output=keep)
    finally:
        await other.close()
    spool.count("database dumped")
    spool.file("dump", b"".join(copied))


def _printed(spool: Spool, module: ModuleType) -> None:
    """What our commands printed when they ran in this process."""

    def ran(result: Any, *_: Any, **__: Any) -> None:
        spool.file("printed", result.output.encode(errors="surrogateescape"))

    _wrap(module.CliRunner, "invoke", ran)


def _children(spool: Spool, module: ModuleType) -> None:
    """What our commands printed as processes of their own, where a test waits for all of it."""
    inner = module.Popen.communicate

    def communicate(self: Any, *arguments: Any, **named: Any) -> Any:
        out, error = inner(self, *arguments, **named)
        words = self.args if isinstance(self.args, (list, tuple)) else [self.args]
        if any("adytum" in str(word) for word in words):
            for text in (out, error):
                if text:
                    data = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
                    spool.file("printed", data)
        return out, error

    module.Popen.communicate = communicate


def _async_children(spool: Spool, module: ModuleType) -> None:
    inner = module.Process.communicate

    async def communicate(self: Any, *arguments: Any, **named: Any) -> Any:
        out, error = await inner(self, *arguments, **named)
        for text in (out, error):
            if text and not text.startswith(b"--\n-- PostgreSQL database"):  # a dump is kept when its server stops
                spool.file("printed", text)
        return out, error

    module.Process.communicate = communicate


HOOKS: dict[str, Callable[[Spool, ModuleType], None]] = {
    "cryptography.hazmat.primitives.asymmetric.ed25519": _curve25519,
    "cryptography.hazmat.primitives.asymmetric.x25519": _curve25519,
    "cryptography.hazmat.primitives.asymmetric.ec": _curves,
    "adytum.client.hpke": _client_hpke,
    "wallet": _tests_hpke,
    "adytum.client.conversation": _sessions,
    "adytum_sim.kms.keys": _kms_keys,
    "adytum_sim.kms.caller": _kms_credentials,
    "adytum_wire.messages": _messages,
    "adytum_sim.enclave.process": _enclaves,
    "adytum_sim.guest": _guests,
    "adytum.storage.embedded": _postgres,
    "asyncpg.connection": _dropped,
    "click.testing": _printed,
    "subprocess": _children,
    "asyncio.subprocess": _async_children,
}
