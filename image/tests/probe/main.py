"""The probe: takes the place of the enclave program in a test image and tells the test what the guest is like.

It speaks on vsock port 5000: one JSON object a connection, after its length in four bytes.
"""

import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import sys
from pathlib import Path

NSM_IOCTL = 0xC0200A00
REPLY_SIZE = 0x3000


def nsm(request):
    """One request through the real ioctl."""
    device = os.open("/dev/nsm", os.O_RDWR | os.O_CLOEXEC)
    try:
        reply = ctypes.create_string_buffer(REPLY_SIZE)
        data = ctypes.create_string_buffer(request, len(request))
        raw = bytearray(struct.pack("<4Q", ctypes.addressof(data), len(request), ctypes.addressof(reply), REPLY_SIZE))
        fcntl.ioctl(device, NSM_IOCTL, raw, True)
        return reply.raw[: struct.unpack("<4Q", raw)[3]]
    finally:
        os.close(device)


def pcr(index):
    """DescribePCR: the 48 bytes stand after the text "data" and the head of a byte string."""
    reply = nsm(b"\xa1\x6bDescribePCR\xa1\x65index" + bytes([index]))
    at = reply.index(b"\x64data\x58\x30") + 7
    return reply[at : at + 48].hex()


def attempt(call):
    """What a call gives, or the number of its error."""
    try:
        return repr(call())
    except OSError as error:
        return error.errno


def text(path):
    return Path(path).read_text()


def report():
    status = dict(line.split(":\t", 1) for line in text("/proc/self/status").splitlines() if ":\t" in line)
    wanted = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
    return {
        "pid": os.getpid(),
        "pcrs": {str(index): pcr(index) for index in (0, 1, 2, 8)},
        "status": {name: status[name].split() for name in wanted},
        "environment": dict(os.environ),
        "path": sys.path,
        "flags": {name: getattr(sys.flags, name) for name in ("no_site", "no_user_site", "safe_path")},
        "devices": sorted(os.listdir("/dev")),
        "mounts": [line.split()[1:4] for line in text("/proc/mounts").splitlines()],
        "modules": sorted(line.split()[0] for line in text("/proc/modules").splitlines()),
        "files": sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk("/")
            if folder.split("/")[1] not in ("proc", "sys", "dev")
            for name in names
        ),
        "rng": text("/sys/class/misc/hw_random/rng_current").strip(),
        "clock": text("/sys/devices/system/clocksource/clocksource0/current_clocksource").strip(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK),
        "mlockall": ctypes.CDLL(None).mlockall(3),
        "modules_disabled": text("/proc/sys/kernel/modules_disabled").strip(),
        "core_pattern": text("/proc/sys/kernel/core_pattern").strip(),
        "attempts": {
            "write /": attempt(lambda: Path("/x").write_text("")),
            "write /proc/sys": attempt(lambda: Path("/proc/sys/kernel/core_pattern").write_text("core")),
            "open /dev/console": attempt(lambda: Path("/dev/console").open("w")),
            "run a shell": attempt(lambda: os.execv("/bin/sh", ["sh"])),
            "become root": attempt(lambda: os.setuid(0)),
            "internet socket": attempt(lambda: socket.create_connection(("192.0.2.1", 443), 1)),
        },
        "cmdline": text("/proc/cmdline").strip(),
    }


def main():
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, 5000))
    listener.listen(4)
    print("adytum-enclave: ready", flush=True)
    while True:
        peer, _ = listener.accept()
        with peer:
            answer = json.dumps(report()).encode()
            peer.sendall(struct.pack(">I", len(answer)) + answer)
            peer.recv(1)  # until the test has it all


if __name__ == "__main__":  # the build imports every module, on the build machine
    main()
