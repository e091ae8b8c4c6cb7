"""The rig: QEMU's `nitro-enclave` machine with an NSM and a vsock, so that an image can be booted without AWS.

Its attestation documents are unsigned, so it proves the image and not the platform (docs/reference/image.md).
"""

from adytum_image.rig.machine import Booted, Machine, Rig
from adytum_image.rig.prepare import prepare

__all__ = ["Booted", "Machine", "Rig", "prepare"]
