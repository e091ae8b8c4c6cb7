"""Start QEMU's `nitro-enclave` machine with an image, and the vsock device beside it; stop both.

    with rig.boot(Path("adytum.eif")) as booted:
        booted.wait_for_line("adytum-enclave: ready", timeout_s=30)
        ...  # port P of the guest: connect to the Unix socket booted.vsock, send "CONNECT P\n"

What the guest dials on its parent arrives at the Unix socket `<booted.vsock>_<port>`. The heartbeat of port 9000 is
answered here, as the real parent's driver does.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from adytum_image.errors import RigError
from adytum_image.rig.tsc import host_tsc_khz

HEARTBEAT_PORT: Final = 9000
_START_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine to start. `memory_mib` must be at least four times the image. The identity shows in PCR3 and PCR4."""

    memory_mib: int = 512
    cpus: int = 1
    cid: int = 16
    enclave_id: str = "i-0123456789abcdef0-enc0123456789abcde"
    role_arn: str = "arn:aws:iam::123456789012:role/adytum-parent"
    instance_id: str = "i-0123456789abcdef0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """What `prepare` found: the programs, the firmware folders, and `kvm` or `tcg`."""

    qemu: Path
    vsock_device: Path
    firmware: tuple[Path, ...]
    accelerator: str

    def boot(self, eif: Path, machine: Machine = Machine()) -> Booted:
        """Start the machine; the guest is not up yet. Errors: RigError(START), and nothing is left running."""
        folder = Path(tempfile.mkdtemp(prefix="adytum-rig-"))
        booted = Booted(folder=folder, vsock=folder / "v", console=folder / "console", started=time.monotonic())
        try:
            self._start(booted, eif, machine)
        except BaseException:
            booted.stop()
            raise
        return booted

    def _start(self, booted: Booted, eif: Path, machine: Machine) -> None:
        if not eif.is_file():
            raise RigError("START", f"no image {eif}")
        if machine.memory_mib * 1024 * 1024 < 4 * eif.stat().st_size:
            raise RigError("START", "an enclave needs at least four times its image's size in memory")
        booted.answer_heartbeats()
        device = booted.folder / "d"
        vm = f"guest-cid={machine.cid},socket={device},uds-path={booted.vsock}"
        booted.run([str(self.vsock_device), "--vm", vm], "vsock.log")
        _wait_for(device.exists, "the vsock device did not start", booted)
        identity = f"id={machine.enclave_id},parent-role={machine.role_arn},parent-id={machine.instance_id}"
        command = [str(self.qemu), "-M", f"nitro-enclave,vsock=c,{identity},acpi=on"]
        command += ["-accel", self.accelerator, "-cpu", "host" if self.accelerator == "kvm" else "max"]
        command += ["-smp", str(machine.cpus), "-m", f"{machine.memory_mib}M", "-kernel", str(eif)]
        command += ["-chardev", f"socket,id=c,path={device}", "-serial", f"file:{booted.console}"]
        if self.accelerator == "tcg":
            command += ["-append", f"tsc=reliable tsc_early_khz={host_tsc_khz()}"]
        command += ["-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot"]
        command += [part for folder in self.firmware for part in ("-L", str(folder))]
        booted.run(command, "qemu.log")
        _wait_for(booted.vsock.exists, "the machine did not start", booted)


@dataclass(slots=True, kw_only=True)
class Booted:
    """A running machine. `vsock`: the Unix socket of its vsock. `console`: the file with what the guest printed.

    `started`: on the monotonic clock, in seconds.
    """

    folder: Path
    vsock: Path
    console: Path
    started: float
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _heartbeat: socket.socket | None = None
    _thread: threading.Thread | None = None
    heartbeats: int = 0

    def run(self, command: list[str], log: str) -> None:
        with (self.folder / log).open("wb") as output:
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603
            )

    @property
    def running(self) -> bool:
        """Whether every process still runs: a guest that ended, ended the machine."""
        return all(process.poll() is None for process in self._processes)

    def console_text(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.console.read_text("utf-8", errors="replace")
        return ""

    def logs(self) -> str:
        """What the two programs said, for error messages."""
        return "\n".join(file.read_text("utf-8", errors="replace")[-2000:] for file in self.folder.glob("*.log"))

    def wait_for_line(self, text: str, timeout_s: float) -> float:
        """Wait until the console shows `text`; seconds since the start. Errors: RigError(NOT_READY)."""
        deadline = time.monotonic() + timeout_s
        while text not in self.console_text():
            if time.monotonic() > deadline or not self.running:
                raise RigError("NOT_READY", f"no {text!r} on the console:\n{self.console_text()[-2000:]}{self.logs()}")
            time.sleep(_POLL_S)
        return time.monotonic() - self.started

    def connect(self, port: int, timeout_s: float = 5.0) -> socket.socket:
        """A stream to `port` of the guest. Errors: RigError(NO_LISTENER) where nothing listens there."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(timeout_s)
        try:
            stream.connect(str(self.vsock))
            stream.sendall(b"CONNECT %d\n" % port)
            answer = b""
            while not answer.endswith(b"\n"):
                byte = stream.recv(1)
                if not byte:
                    raise RigError("NO_LISTENER", f"port {port}")
                answer += byte
        except BaseException as error:
            stream.close()
            if isinstance(error, OSError):
                raise RigError("NO_LISTENER", f"port {port}") from None
            raise
        return stream

    def answer_heartbeats(self) -> None:
        self._heartbeat = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._heartbeat.bind(f"{self.vsock}_{HEARTBEAT_PORT}")
        self._heartbeat.listen(4)
        self._thread = threading.Thread(target=self._heartbeats, name="heartbeat", daemon=True)
        self._thread.start()

    def _heartbeats(self) -> None:
        listener = self._heartbeat
        while listener is not None:
            try:
                stream, _ = listener.accept()
            except OSError:
                return  # stopped
            with stream, contextlib.suppress(OSError):
                stream.settimeout(_STOP_TIMEOUT_S)
                byte = stream.recv(1)
                stream.sendall(byte)
                self.heartbeats += 1

    def stop(self) -> None:
        """End both processes and remove the folder, console included. May be called twice."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._heartbeat is not None:
            with contextlib.suppress(OSError):
                self._heartbeat.shutdown(socket.SHUT_RDWR)
            self._heartbeat.close()
            self._heartbeat = None
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT_S)
            self._thread = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def _wait_for(ready: object, message: str, booted: Booted) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while callable(ready) and not ready():
        if time.monotonic() > deadline or not booted.running:
            raise RigError("START", f"{message}: {booted.logs()}")
        time.sleep(_POLL_S)
