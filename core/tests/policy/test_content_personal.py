"""EIP-191 messages against eth-account: digests, signatures, and what a person is shown."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.content import decode_content
from adytum_policy.facts import MessageFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import PersonalMessage
from adytum_wire.types import SigningScheme

SCHEME = SigningScheme.ECDSA_SECP256K1
private_keys = st.integers(1, 2**255).map(lambda number: number.to_bytes(32, "big"))


def personal(message: bytes) -> Any:
    return decode_content(PersonalMessage(message.hex()), SCHEME)


def compact(signed: Any) -> bytes:
    return bytes(signed.r.to_bytes(32, "big") + signed.s.to_bytes(32, "big") + bytes([signed.v - 27]))


@settings(max_examples=60, deadline=None)
@given(message=st.binary(max_size=300) | st.text(max_size=100).map(str.encode), key=private_keys)
def test_messages_agree_with_eth_account(message: bytes, key: bytes) -> None:
    decoded = personal(message)
    signed = Account.sign_message(encode_defunct(primitive=message), key)
    assert decoded.payload == bytes(signed.message_hash)
    result = decoded.finish(compact(signed))
    assert result == {"ethereum_signature": "0x" + bytes(signed.signature).hex()}
    found = Account.recover_message(encode_defunct(primitive=message), signature=result["ethereum_signature"])
    assert found == Account.from_key(key).address


@pytest.mark.parametrize("message", [b"Log in to shop.example\nNonce: 7", "Grüße, 世界".encode(), b"", b"\t"])
def test_text_is_shown_as_it_is(message: bytes) -> None:
    decoded = personal(message)
    assert decoded.facts == MessageFacts(type="eip191-message", text=message.decode())
    assert (decoded.summary["readable"], decoded.summary["text"]) == ("yes", message.decode())


@pytest.mark.parametrize(
    "message",
    [b"\xff", b"\0", bytes(32), keccak(b"a digest of something else"), "pay ‮001‬".encode(), "a​b".encode(), b"\r"],
)
def test_what_cannot_be_read_is_said_to_be_unreadable(message: bytes) -> None:
    """Control characters, reversed and hidden text, and 32 bytes that may be a contract wallet's transaction."""
    decoded = personal(message)
    assert decoded.facts == MessageFacts(type="eip191-message", text=None)
    assert (decoded.summary["readable"], decoded.summary["hex"]) == ("no", message.hex())


def test_a_message_that_nobody_would_read_to_its_end() -> None:
    personal(b"a" * 8192)
    with pytest.raises(AdytumError) as caught:
        personal(b"a" * 8193)
    assert (caught.value.code, caught.value.field) == (Code.CONTENT_INVALID, "$.content.message")


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(64) + b"\2", bytes(64) + b"\x1b", bytes(66)])
def test_a_signature_that_ethereum_cannot_express_does_not_leave(signature: bytes) -> None:
    with pytest.raises(AdytumError) as caught:
        personal(b"a").finish(signature)
    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize("scheme", [scheme for scheme in SigningScheme if scheme is not SCHEME])
def test_only_ecdsa_secp256k1_signs_messages(scheme: SigningScheme) -> None:
    with pytest.raises(AdytumError) as caught:
        decode_content(PersonalMessage("00"), scheme)
    assert (caught.value.code, caught.value.field) == (Code.CONTENT_INVALID, "$.scheme")
