"""Messages that an Ethereum account signs for a person to read (EIP-191, version 0x45, "personal_sign").

    keccak256("\\x19Ethereum Signed Message:\\n" || decimal length || message)

The prefix keeps a message from being a transaction. It does not keep it from being something else's digest: some
contracts take a signature over 32 bytes that nobody can read, so whether a message is readable is a fact for rules.

Source: https://eips.ethereum.org/EIPS/eip-191
"""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.content.address import keccak256
from adytum_policy.content.decoded import Decoded
from adytum_policy.content.readable import is_readable
from adytum_policy.facts import MessageFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import sha256

TYPE = "eip191-message"
MAX_MESSAGE = 8 * 1024  # bytes; a receipt shows all of it, and nobody reads more
_PREFIX = b"\x19Ethereum Signed Message:\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSigned(Decoded):
    """What contracts and sites verify against an account's address."""

    def finish(self, signature: bytes) -> dict[str, str]:
        """The signature as `ecrecover` takes it: "0x" and the hex of r||s||v with v 27 or 28. `signature`: r||s and the
        recovery id, 65 bytes. Errors: INTERNAL for the recovery ids 2 and 3; the signature must then not leave."""
        if len(signature) != 65 or signature[64] > 1:
            raise AdytumError(Code.INTERNAL, "signature")
        return {"ethereum_signature": f"0x{signature[:64].hex()}{signature[64] + 27:02x}"}


def decode(message: bytes) -> AccountSigned:
    """Any bytes up to MAX_MESSAGE. Errors: CONTENT_INVALID when there are more."""
    if len(message) > MAX_MESSAGE:
        raise AdytumError(Code.CONTENT_INVALID, "$.content.message")
    text = _text(message)
    return AccountSigned(
        payload=keccak256(_PREFIX + str(len(message)).encode() + message),
        facts=MessageFacts(type=TYPE, text=text),
        summary={
            "type": TYPE,
            "length": str(len(message)),
            "readable": "no" if text is None else "yes",
            **({"hex": message.hex(), "sha256": sha256(message).hex()} if text is None else {"text": text}),
        },
    )


def _text(message: bytes) -> str | None:
    try:
        text = message.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if is_readable(text) else None
