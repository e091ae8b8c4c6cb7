"""Reading X25519 private keys, and writing secrets where only their owner reads them."""

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
