"""Reading X25519 private keys, and writing files: secrets where only their owner reads them, others whole or not."""

from __future__ import annotations

import os
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from adytum.client.signers import MAX_KEY_FILE


def load_x25519(path: Path) -> X25519PrivateKey:
    """A private key in PEM; asks for its password when it has one. Errors: click.ClickException."""
    with path.open("rb") as file:
        data = file.read(MAX_KEY_FILE)
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:
            password = click.prompt(f"Password of {path}", hide_input=True)
            key = load_pem_private_key(data, password.encode())
    except ValueError:
        raise click.ClickException(f"{path} is not a private key in PEM that opens") from None
    if not isinstance(key, X25519PrivateKey):
        raise click.ClickException(f"{path}: want an X25519 key (openssl genpkey -algorithm X25519)")
    return key


def write_secret(path: Path, secret: bytes) -> None:
    """A new file, mode 0600; one that exists is never overwritten. Errors: OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` and on the disk; whoever looks sees what was there before, or all of it. Errors: OSError,
    and what was there before is unchanged."""
    half = path.with_name(path.name + ".tmp")
    try:
        with half.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk. Errors: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
