"""One TLS connection that ends here, over a socket that the host only pipes (RFC 8446, RFC 5246, RFC 9525).

The peer must present a chain to one of the given roots, for the given host name; the system's trust store, environment
variables and the host's clock have no say. The TLS machine is OpenSSL through `ssl.SSLObject`, fed by hand: so that no
send() exceeds `limits.SLICE` (larger vsock writes are corrupted in silence by some kernels).

Time: OpenSSL would compare the certificates with the kernel's wall clock, which is not the trusted one, and Python's
`ssl` cannot hand it another (X509_VERIFY_PARAM_set_time is not exposed). So OpenSSL's comparison is switched off and
every certificate of the chain that it verified is compared here, before a byte is sent. What Python cannot do: name a
revocation list or a stapled OCSP answer; Amazon's chains are not checked for revocation.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from cryptography import x509

from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

T = TypeVar("T")

_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, <openssl/x509_vfy.h>; `ssl` has no name for it
_ENCODING_DER: Final = 2  # _ssl.ENCODING_DER
_RECEIVE: Final = 16 * 1024  # bytes, one TLS record
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def client_context(roots: Sequence[str], *, field: str = "$.kms.roots") -> ssl.SSLContext:
    """A context that trusts exactly `roots` (PEM certificates). Errors: MANIFEST_INVALID for none, or a malformed one.

    Built by hand and not by `ssl.create_default_context`, which would load the system's roots and honour SSLKEYLOGFILE.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # requires a certificate, and checks the host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        for root in roots:
            context.load_verify_locations(cadata=root)
    except (ssl.SSLError, ValueError):
        raise AdytumError(Code.MANIFEST_INVALID, field) from None
    if context.cert_store_stats()["x509_ca"] < max(1, len(set(roots))):
        raise AdytumError(Code.MANIFEST_INVALID, field)
    return context


class TlsStream:
    """Bytes in, bytes out. One task at a time. Any exception, cancellation too, leaves it fit only for `close`."""

    __slots__ = ("_code", "_incoming", "_outgoing", "_socket", "_tls")

    def __init__(
        self, raw: socket.socket, context: ssl.SSLContext, host: str, *, code: Code = Code.KMS_ANSWER_INVALID
    ) -> None:
        """Takes ownership of `raw`, a connected stream socket. `code`: for a peer that is not who it must be."""
        self._code = code
        raw.setblocking(False)
        self._socket = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def handshake(self, now_ms: int) -> None:
        """Errors: `code` when the peer is not who it must be at `now_ms`; OSError when it went away."""
        try:
            await self._pump(self._tls.do_handshake)
        except ssl.SSLCertVerificationError:
            with contextlib.suppress(OSError):
                await self._flush()  # the alert
            raise AdytumError(self._code, "tls.certificate") from None
        now = _EPOCH + datetime.timedelta(milliseconds=now_ms)
        chain = [x509.load_der_x509_certificate(der) for der in _verified_chain(self._tls)]
        if not chain or not all(c.not_valid_before_utc <= now <= c.not_valid_after_utc for c in chain):
            raise AdytumError(self._code, "tls.certificate.validity")

    async def send(self, data: bytes) -> None:
        """Errors: OSError."""
        await self._pump(lambda: self._tls.write(data))

    async def receive(self) -> bytes:
        """At most 16 KiB; b"" at the end of the stream, whether it was announced or not. Errors: OSError."""
        try:
            return await self._pump(lambda: self._tls.read(_RECEIVE))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def close(self) -> None:
        """Close at once, without TLS's farewell: there is nobody to wait for."""
        self._socket.close()

    async def _pump(self, step: Callable[[], T]) -> T:
        """Run `step` until it needs no more bytes from the peer, and send what it wrote."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await asyncio.get_running_loop().sock_recv(self._socket, _RECEIVE)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
                continue
            await self._flush()
            return result

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while piece := self._outgoing.read(limits.SLICE):
            await loop.sock_sendall(self._socket, piece)


def _verified_chain(tls: ssl.SSLObject) -> list[bytes]:
    """DER certificates from the peer's to the root, as OpenSSL verified them.

    Python 3.13 made this public; 3.11, which the image pins, has it one level down. A test fails if neither is there.
    """
    public = getattr(tls, "get_verified_chain", None)
    if public is not None:
        return list(public())
    inner: Any = tls._sslobj  # type: ignore[attr-defined]
    return [certificate.public_bytes(_ENCODING_DER) for certificate in inner.get_verified_chain()]
