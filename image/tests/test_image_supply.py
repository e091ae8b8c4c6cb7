"""What comes from outside: locks, mirrors, wheels, AWS's files. A wrong byte is refused before the file is opened."""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import threading
import zipfile
from pathlib import Path

import pytest

from adytum_image import fetch
from adytum_image.build import Source
from adytum_image.errors import BuildError
from adytum_image.fetch import Store, apt_mirrors, cache_root
from adytum_image.locks import Lock, Package, read_lock, write_lock
from adytum_image.rootfs import contents, kernel, wheels


def package(data: bytes = b"data", **changes) -> Package:
    values = {
        "name": "libx",
        "version": "1",
        "use": "image",
        "archive": "debian",
        "path": "pool/main/libx_1_amd64.deb",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return Package(**(values | changes))


def test_the_lock_of_the_tree_reads_and_writes_back() -> None:
    path = Source.find().packages_lock
    lock = read_lock(path)
    assert write_lock(lock) == path.read_text()
    assert {item.use for item in lock.packages} == {"image", "kernel", "tool", "rig"}
    assert "://" not in path.read_text(), "a lock names no host"
    assert {item.name for item in lock.used_for("image")} == set(contents.read_rules().keep)


@pytest.mark.parametrize(
    "change",
    [
        {"use": "production"},
        {"archive": "elsewhere"},
        {"sha256": "0" * 63},
        {"sha256": "Z" * 64},
        {"path": "/etc/passwd"},
        {"path": "pool/../../x"},
    ],
)
def test_a_lock_with_a_bad_field_is_refused(tmp_path, change) -> None:
    (tmp_path / "lock").write_text(write_lock(Lock(packages=(package(),))).replace("amd64.deb", "amd64.deb"))
    assert read_lock(tmp_path / "lock").one("libx") == package()
    text = write_lock(Lock(packages=(package(),)))
    ((name, value),) = change.items()
    (tmp_path / "lock").write_text(text.replace(f'{name} = "{getattr(package(), name)}"', f'{name} = "{value}"'))
    with pytest.raises(BuildError, match="LOCK_INVALID"):
        read_lock(tmp_path / "lock")


def test_a_lock_that_is_empty_doubled_or_has_more_fields_is_refused(tmp_path) -> None:
    text = write_lock(Lock(packages=(package(),)))
    for bad in ("", "package = []\n", text + text.split("\n\n", 1)[1], text + 'extra = "1"\n', "not toml ["):
        (tmp_path / "lock").write_text(bad)
        with pytest.raises(BuildError, match="LOCK_INVALID"):
            read_lock(tmp_path / "lock")


def test_mirrors_come_from_the_machines_apt(tmp_path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb http://commented.example/debian x main\n"
        "deb [signed-by=/k] http://one.example/debian/ bookworm main\n"
        "deb https://other.example/vendor stable main\n"
    )
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/a.sources").write_text("Types: deb\nURIs: https://two.example/debian-security\n")
    assert apt_mirrors(tmp_path) == {
        "debian": ["http://one.example/debian"],
        "debian-security": ["https://two.example/debian-security", "http://one.example/debian-security"],
    }


def test_the_cache_lies_outside_the_tree() -> None:
    assert cache_root({"XDG_CACHE_HOME": "/c"}) == Path("/c/adytum")
    assert Source.find().root not in cache_root().parents


class Mirror(Store):
    """A store whose mirrors answer from a table."""

    def __init__(self, root: Path, answers: dict[str, bytes]) -> None:
        super().__init__(root, {"debian": ["http://a", "http://b"]})
        self.answers, self.asked = answers, []

    def _get(self, url: str, size: int) -> bytes:
        self.asked.append(url)
        return self.answers.get(url, b"")[: size + 1]


def test_a_package_is_fetched_once_and_checked_each_time(tmp_path) -> None:
    store = Mirror(tmp_path, {"http://b/pool/main/libx_1_amd64.deb": b"data"})
    assert store.package(package()) == b"data"
    assert store.package(package()) == b"data"
    assert store.asked == ["http://a/pool/main/libx_1_amd64.deb", "http://b/pool/main/libx_1_amd64.deb"]
    kept = tmp_path / "files" / package().sha256
    kept.write_bytes(b"evil")
    assert store.package(package()) == b"data"
    assert kept.read_bytes() == b"data"


def test_attack_a_mirror_that_serves_another_file_is_refused(tmp_path) -> None:
    store = Mirror(tmp_path, {f"http://{name}/pool/main/libx_1_amd64.deb": b"evil" for name in "ab"})
    with pytest.raises(BuildError, match="FETCH_FAILED"):
        store.package(package())
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("head", [b"", b"Content-Length: 99999999999\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_attack_a_mirror_that_never_ends_is_refused(tmp_path, head) -> None:
    """It sends for as long as it is listened to; one byte more than the lock says is read, and the line is closed."""
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n" if b"chunked" in head else bytes(0x10000)
    sent = []

    def serve(listening: socket.socket) -> None:
        line, _ = listening.accept()
        with line, contextlib.suppress(OSError):
            line.recv(4096)
            line.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
            while True:
                line.sendall(piece)
                sent.append(len(piece))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        store = Store(tmp_path, {"debian": [f"http://127.0.0.1:{listening.getsockname()[1]}"]})
        with pytest.raises(BuildError, match="FETCH_FAILED"):
            store.package(package())
        thread.join(60)
    assert not thread.is_alive()
    assert sum(sent) < 64 * 1024 * 1024, "what the sockets hold"
    assert not (tmp_path / "files").exists()


def test_names_are_quoted_for_the_mirror(tmp_path) -> None:
    store = Mirror(tmp_path, {"http://a/pool/x_1%2Bdeb12.deb": b"data"})
    assert store.package(package(path="pool/x_1+deb12.deb")) == b"data"


def wheel_file(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def locked_cache(tmp_path: Path, data: bytes, pinned: bytes) -> Path:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"x-y==1.0 \\\n    --hash=sha256:{hashlib.sha256(pinned).hexdigest()}\n    # via z\n")
    folder = tmp_path / "cache/wheels" / hashlib.sha256(lock.read_bytes()).hexdigest()
    folder.mkdir(parents=True)
    (folder / "x_y-1.0-py3-none-any.whl").write_bytes(data)
    return lock


def test_a_cached_wheel_is_unpacked_in_any_order_of_its_entries(tmp_path) -> None:
    data = wheel_file({"x/b.py": b"b", "x/a.py": b"a"})
    (wheel,) = wheels.fetch(locked_cache(tmp_path, data, data), tmp_path / "cache", lambda line: None)
    assert (wheel.name, wheel.version) == ("x-y", "1.0")
    assert [path for path, _ in wheels.unpack(wheel).files()] == ["x/a.py", "x/b.py"]


def test_attack_a_wheel_swapped_in_the_cache_is_refused(tmp_path) -> None:
    lock = locked_cache(tmp_path, wheel_file({"x/a.py": b"evil"}), wheel_file({"x/a.py": b"a"}))
    with pytest.raises(BuildError, match="WHEEL_HASH"):
        wheels.fetch(lock, tmp_path / "cache", lambda line: None)


@pytest.mark.parametrize("name", ["x-1.data/scripts/run", "evil.pth", "../../etc/passwd", "/etc/passwd"])
def test_attack_a_wheel_that_reaches_beyond_its_folder_is_refused(name) -> None:
    wheel = wheels.Wheel(name="x", version="1", filename="x.whl", sha256="", data=wheel_file({name: b""}))
    with pytest.raises(BuildError, match=r"WHEEL_CONTENT|PATH_INVALID"):
        wheels.unpack(wheel)


@pytest.mark.parametrize("line", ["x", "x>=1", "x==1", "-r other.txt", "x==1 --hash=md5:00", "# nothing"])
def test_a_requirement_without_a_pin_is_refused(line) -> None:
    with pytest.raises(BuildError, match="WHEEL_LOCK"):
        wheels.locked(line + "\n")


def test_aws_blobs_become_the_first_ramdisk(tmp_path) -> None:
    for name in ("bzImage", "init", "nsm.ko"):
        (tmp_path / name).write_bytes(name.encode())
    with pytest.raises(BuildError, match="BLOBS_INVALID: cmdline"):
        kernel.from_blobs(tmp_path)
    (tmp_path / "cmdline").write_bytes(b"reboot=k panic=30\n")
    boot = kernel.from_blobs(tmp_path)
    assert (boot.kernel, boot.cmdline, boot.aws) == (b"bzImage", b"reboot=k panic=30", True)
    assert {path: node.mode & 0o111 for path, node in boot.ramdisk} == {"init": 0o111, "nsm.ko": 0}


def test_write_atomically_leaves_no_other_file(tmp_path) -> None:
    fetch.write_atomically(tmp_path / "a/b", b"1")
    fetch.write_atomically(tmp_path / "a/b", b"2")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a/b").read_bytes() == b"2"
