"""The stand-in's attestation PKI: five P-384 certificates in the shape that the Nitro hypervisor really uses.

Leaves out: revocation lists (AWS says that checking them must be off) and any other partition. The root's name says
that it is for development; nobody outside a test or a demo trusts it.

Example:
    pki = DevPki.create(now_ms)
    chain = pki.chain(module_id="i-0123456789abcdef0-enc0123456789abcdef", now_ms=now_ms)
    anchors = [pki.anchor]                 # what a verifier must pin to accept these documents
    pki.save(directory)                    # another process: DevPki.load(directory)
"""

from adytum_sim.pki.certificates import ROOT_COMMON_NAME
from adytum_sim.pki.devpki import Chain, DevPki

__all__ = ["ROOT_COMMON_NAME", "Chain", "DevPki"]
