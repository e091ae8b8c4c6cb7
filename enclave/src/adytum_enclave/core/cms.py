"""Parse what KMS sends as `CiphertextForRecipient`: CMS EnvelopedData (RFC 5652), in the one shape that KMS uses.

KMS writes BER, not DER: indefinite lengths around definite ones, and the content either as constructed `[0]` holding
OCTET STRINGs or as one primitive `[0]`. Both are read, with definite or indefinite lengths, and nothing else: exactly
one recipient, named by a 32-byte subject key identifier; RSAES-OAEP with SHA-256, MGF1-SHA-256 and no label;
AES-256-CBC.

Left out: decryption (`core/recipient.py`), and authenticity. The envelope is confidential but NOT authentic (CBC
without a MAC, to a public key that the host can see); only the TLS connection that brought it says who wrote it.

Contract for the fuzzer: `parse_cms` returns a `CmsEnvelope` or raises `AdytumError(KMS_ANSWER_INVALID)`; nothing else
leaves it, and its work is linear in the length of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from adytum_wire.errors import AdytumError, Code

MAX_CIPHERTEXT_FOR_RECIPIENT: Final = 6144  # bytes; the AWS KMS API reference's bound on the blob
_MAX_DEPTH: Final = 12  # a genuine answer has 10
_MAX_NODES: Final = 64  # a genuine answer has 30 elements
_BLOCK: Final = 16  # bytes, AES

# identifier octets (X.690, 8.1.2)
_INTEGER, _OCTETS, _NULL, _OID, _SEQUENCE, _SET = 0x02, 0x04, 0x05, 0x06, 0x30, 0x31
_CONSTRUCTED: Final = 0x20
_OCTETS_CONSTRUCTED = _OCTETS | _CONSTRUCTED
_CONTEXT_0, _CONTEXT_0_CONSTRUCTED, _CONTEXT_1_CONSTRUCTED = 0x80, 0xA0, 0xA1

# contents octets of the object identifiers
_ENVELOPED_DATA: Final = bytes.fromhex("2a864886f70d010703")  # 1.2.840.113549.1.7.3
_DATA: Final = bytes.fromhex("2a864886f70d010701")  # 1.2.840.113549.1.7.1
_RSAES_OAEP: Final = bytes.fromhex("2a864886f70d010107")  # 1.2.840.113549.1.1.7
_MGF1: Final = bytes.fromhex("2a864886f70d010108")  # 1.2.840.113549.1.1.8
_SHA256: Final = bytes.fromhex("608648016503040201")  # 2.16.840.1.101.3.4.2.1
_AES256_CBC: Final = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42


@dataclass(frozen=True, slots=True, kw_only=True)
class CmsEnvelope:
    """The four values that opening needs. None of them is secret."""

    ski: bytes  # 32 bytes: SHA-256 of the recipient's DER SubjectPublicKeyInfo
    encrypted_key: bytes  # 256 bytes: RSAES-OAEP of the content-encryption key
    iv: bytes  # 16 bytes
    ciphertext: bytes  # a positive multiple of 16 bytes


@dataclass(frozen=True, slots=True)
class _Node:
    """One element: its identifier octet, and its contents octets or (when constructed) its elements."""

    tag: int
    value: bytes
    children: tuple[_Node, ...]


class _Malformed(Exception):
    """Internal: never leaves this module."""


class _Reader:
    """BER elements (X.690, 8.1), low tag numbers only, lengths of at most two octets: enough for 6144 bytes."""

    __slots__ = ("_data", "_nodes", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._nodes = 0

    def only(self) -> _Node:
        node = self._element(len(self._data), 0)
        if self._position != len(self._data):
            raise _Malformed  # trailing bytes
        return node

    def _byte(self, end: int) -> int:
        if self._position >= end:
            raise _Malformed
        self._position += 1
        return self._data[self._position - 1]

    def _element(self, end: int, depth: int) -> _Node:
        self._nodes += 1
        if depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            raise _Malformed
        tag = self._byte(end)
        if tag == 0 or tag & 0x1F == 0x1F:
            raise _Malformed  # end-of-contents out of place, or a tag number above 30
        first = self._byte(end)
        if first == 0x80:
            if not tag & _CONSTRUCTED:
                raise _Malformed  # indefinite length is for constructed elements (8.1.3.2)
            return _Node(tag, b"", self._until_end_of_contents(end, depth))
        length = self._length(first, end)
        stop = self._position + length
        if stop > end:
            raise _Malformed
        if not tag & _CONSTRUCTED:
            value = self._data[self._position : stop]
            self._position = stop
            return _Node(tag, value, ())
        children: list[_Node] = []
        while self._position < stop:
            children.append(self._element(stop, depth + 1))
        return _Node(tag, b"", tuple(children))

    def _length(self, first: int, end: int) -> int:
        if first < 0x80:
            return first
        if first == 0x81:
            return self._byte(end)
        if first == 0x82:
            return self._byte(end) << 8 | self._byte(end)
        raise _Malformed

    def _until_end_of_contents(self, end: int, depth: int) -> tuple[_Node, ...]:
        children: list[_Node] = []
        while True:
            if self._position + 2 > end:
                raise _Malformed
            if self._data[self._position] == 0:
                if self._data[self._position + 1] != 0:
                    raise _Malformed
                self._position += 2
                return tuple(children)
            children.append(self._element(end, depth + 1))


def _children(node: _Node, tag: int, count: int) -> tuple[_Node, ...]:
    if node.tag != tag or len(node.children) != count:
        raise _Malformed
    return node.children


def _want(node: _Node, tag: int, value: bytes) -> None:
    if node.tag != tag or node.value != value:
        raise _Malformed


def _sized(node: _Node, tag: int, size: int) -> bytes:
    if node.tag != tag or len(node.value) != size:
        raise _Malformed
    return node.value


def _want_sha256(node: _Node) -> None:
    """AlgorithmIdentifier of SHA-256, parameters NULL or absent (RFC 4055, 2.1: both must be accepted)."""
    if node.tag != _SEQUENCE or len(node.children) not in (1, 2):
        raise _Malformed
    _want(node.children[0], _OID, _SHA256)
    if len(node.children) == 2:
        _want(node.children[1], _NULL, b"")


def _want_oaep(node: _Node) -> None:
    """RSAES-OAEP-params (RFC 4055, 4.1) with SHA-256 twice. A default would mean SHA-1; a label is not used by KMS."""
    oid, params = _children(node, _SEQUENCE, 2)
    _want(oid, _OID, _RSAES_OAEP)
    hash_function, mask_generator = _children(params, _SEQUENCE, 2)
    _want_sha256(_children(hash_function, _CONTEXT_0_CONSTRUCTED, 1)[0])
    mgf_oid, mgf_hash = _children(_children(mask_generator, _CONTEXT_1_CONSTRUCTED, 1)[0], _SEQUENCE, 2)
    _want(mgf_oid, _OID, _MGF1)
    _want_sha256(mgf_hash)


def _octets(nodes: tuple[_Node, ...]) -> bytes:
    """The segments of a constructed OCTET STRING (X.690, 8.7.3), joined. Depth and number are bounded by the reader."""
    parts = []
    for node in nodes:
        if node.tag == _OCTETS:
            parts.append(node.value)
        elif node.tag == _OCTETS_CONSTRUCTED:
            parts.append(_octets(node.children))
        else:
            raise _Malformed
    return b"".join(parts)


def _envelope(root: _Node) -> CmsEnvelope:
    content_type, content = _children(root, _SEQUENCE, 2)
    _want(content_type, _OID, _ENVELOPED_DATA)
    # EnvelopedData: version 2, no originator, one recipient, the content, no attributes (RFC 5652, 6.1)
    version, recipients, encrypted = _children(_children(content, _CONTEXT_0_CONSTRUCTED, 1)[0], _SEQUENCE, 3)
    _want(version, _INTEGER, b"\x02")
    # KeyTransRecipientInfo (6.2.1); its version is 2 because the recipient is named by a key identifier
    recipient_version, ski, algorithm, encrypted_key = _children(_children(recipients, _SET, 1)[0], _SEQUENCE, 4)
    _want(recipient_version, _INTEGER, b"\x02")
    _want_oaep(algorithm)
    inner_type, cipher, data = _children(encrypted, _SEQUENCE, 3)
    _want(inner_type, _OID, _DATA)
    cipher_oid, iv = _children(cipher, _SEQUENCE, 2)
    _want(cipher_oid, _OID, _AES256_CBC)
    if data.tag == _CONTEXT_0:
        ciphertext = data.value
    elif data.tag == _CONTEXT_0_CONSTRUCTED:
        ciphertext = _octets(data.children)
    else:
        raise _Malformed
    if not ciphertext or len(ciphertext) % _BLOCK:
        raise _Malformed
    return CmsEnvelope(
        ski=_sized(ski, _CONTEXT_0, 32),
        encrypted_key=_sized(encrypted_key, _OCTETS, 256),
        iv=_sized(iv, _OCTETS, _BLOCK),
        ciphertext=ciphertext,
    )


def parse_cms(data: bytes) -> CmsEnvelope:
    """Parse `data` (at most 6144 bytes), strictly and whole. Errors: KMS_ANSWER_INVALID, always with the same field."""
    if len(data) <= MAX_CIPHERTEXT_FOR_RECIPIENT:
        try:
            return _envelope(_Reader(data).only())
        except _Malformed:
            pass
    raise AdytumError(Code.KMS_ANSWER_INVALID, "CiphertextForRecipient") from None
