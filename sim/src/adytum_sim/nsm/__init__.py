"""A stand-in for the Nitro Security Module, with the byte seam of `/dev/nsm`: a CBOR request in, a CBOR answer out.

Leaves out: the ioctl, and what AWS has never documented (which error a malformed request gets; we say
`InvalidOperation`, as QEMU does).

Example:
    nsm = SimNsm(pki, module_id="i-0123456789abcdef0-enc0123456789abcdef", pcrs={0: bytes(48)}, clock_ms=clock)
    answer = nsm.request(bytes.fromhex("6b44657363726962654e534d"))   # DescribeNSM
"""

from adytum_sim.nsm.device import REQUEST_MAX, RESPONSE_MAX, SimNsm, extend, measured_text
from adytum_sim.nsm.document import PayloadEncoding, build_document, build_unsigned_document

__all__ = [
    "REQUEST_MAX",
    "RESPONSE_MAX",
    "PayloadEncoding",
    "SimNsm",
    "build_document",
    "build_unsigned_document",
    "extend",
    "measured_text",
]
