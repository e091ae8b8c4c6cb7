#!/usr/bin/python3.11 -IS
# ruff: noqa: PTH108, PTH110, PTH123, PTH208, S606
"""The first program in the enclave: prepare the kernel, give up every right, become the enclave program.

As process 1 (our own ramdisk) it mounts what the kernel offers, loads the modules in /modules in the order of their
names and tells the parent that it lives (0xB7 to vsock port 9000, as AWS's init does). Started by AWS's init, which has
done that already, it begins with the second part: fix what the kernel may still do, leave only the device nodes that
the enclave uses, drop every capability, and exec. On the way nothing is read but what is measured.

Output: `adytum-init: EVENT`, one line an event, nothing else. A failure names its step and ends the enclave.
"""

import _socket  # and not socket, which takes a fifth of a second more under emulation
import ctypes
import os
import resource
import stat
import time

PYTHON = "/usr/bin/python3.11"
LIBRARY = "/usr/lib/adytum"
MAIN = "adytum_enclave.shell.main"
# Isolated, flag by flag: no folder of ours on the path (-P), no user's (-s), no site (-S). Not -I, which would ignore
# PYTHONMALLOC: the environment is the one below and nothing else. LIBRARY is added here, in measured text.
FLAGS = ["-B", "-P", "-s", "-S"]
LAUNCH = (
    f"import sys, runpy; sys.path.append({LIBRARY!r}); runpy.run_module({MAIN!r}, run_name='__main__', alter_sys=True)"
)
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "LD_BIND_NOW": "1",  # symbols are bound before the first secret exists
    "GLIBC_TUNABLES": "glibc.malloc.perturb=170:glibc.malloc.tcache_count=0",  # free() overwrites: a belt, the enclave
    "PYTHONMALLOC": "malloc",  # wipes by itself; Python's own objects pass through free() too
}
ENCLAVE_ID = 65532  # user and group of the enclave program: nobody else exists
HEARTBEAT = b"\xb7"
HEARTBEAT_PORT = 9000
PARENT_CIDS = (2, 3)  # the host under QEMU, where this runs; Nitro's parent
HEARTBEAT_TIMEOUT_S = 1.0
NSM_TIMEOUT_S = 10.0

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MNT_DETACH = 2
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 28, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECUREBITS_ALL_LOCKED = 0b11101111  # noroot, no_setuid_fixup, keep_caps off, no ambient raise; all of them locked
LAST_CAPABILITY = 63
NODES = {"null": "mem/null", "zero": "mem/zero", "random": "mem/random", "urandom": "mem/urandom", "nsm": "misc/nsm"}
FIXED = {  # below /proc/sys; what this kernel does not have is skipped
    "kernel/modules_disabled": "1",
    "kernel/kexec_load_disabled": "1",
    "kernel/core_pattern": "",
    "kernel/dmesg_restrict": "1",
    "kernel/kptr_restrict": "2",
    "kernel/perf_event_paranoid": "3",
    "kernel/randomize_va_space": "2",
    "kernel/sysrq": "0",
    "kernel/unprivileged_bpf_disabled": "1",
    "kernel/yama/ptrace_scope": "3",
    "fs/suid_dumpable": "0",
    "user/max_user_namespaces": "0",
    "vm/swappiness": "0",
}

libc = ctypes.CDLL(None, use_errno=True)


def say(event: str) -> None:
    os.write(1, b"adytum-init: " + event.encode() + b"\n")


def check(result: int, step: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), step)


def mount(source: str, target: str, kind: str, flags: int) -> None:
    check(libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None), f"mount {target}")


def devices() -> None:
    """Process 1 only: what AWS's init does before it starts the program."""
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in sorted(os.listdir("/modules")):
        module = os.open("/modules/" + name, os.O_RDONLY | os.O_CLOEXEC)
        check(libc.syscall(ctypes.c_long(313), module, b"", 0), f"finit_module {name}")  # x86-64
        os.close(module)
    say("MODULES_LOADED")
    say("HEARTBEAT_ANSWERED" if any(heartbeat(cid) for cid in PARENT_CIDS) else "HEARTBEAT_UNANSWERED")


def heartbeat(cid: int) -> bool:
    parent = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM)
    parent.settimeout(HEARTBEAT_TIMEOUT_S)
    try:
        parent.connect((cid, HEARTBEAT_PORT))
        parent.sendall(HEARTBEAT)
        return parent.recv(1) == HEARTBEAT
    except OSError:
        return False  # who is not told may kill the enclave; a reason to stop it is not ours
    finally:
        parent.close()


def nodes() -> None:
    """Replace whatever is in /dev by the nodes in NODES, the NSM's for the enclave program alone."""
    deadline = time.monotonic() + NSM_TIMEOUT_S
    while not os.path.exists("/sys/class/misc/nsm/dev"):
        if time.monotonic() > deadline:
            raise OSError(0, "no NSM")
        time.sleep(0.01)
    while libc.umount2(b"/dev", MNT_DETACH) == 0:
        pass
    for name in os.listdir("/dev"):
        if name != "console":  # open as 0, 1 and 2; nobody but root may open it again
            os.unlink("/dev/" + name)
    for name, place in NODES.items():
        with open(f"/sys/class/{place}/dev") as numbers:
            major, minor = numbers.read().split(":")
        os.mknod("/dev/" + name, stat.S_IFCHR | 0o600, os.makedev(int(major), int(minor)))
        os.chown("/dev/" + name, ENCLAVE_ID, ENCLAVE_ID)


def fix_kernel() -> None:
    for name, value in FIXED.items():
        try:
            with open("/proc/sys/" + name, "w") as setting:
                setting.write(value + "\n")
        except FileNotFoundError:
            continue
    for target in ("/proc", "/sys"):
        mount("", target, "", MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("", "/", "", MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def drop_rights() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for capability in range(LAST_CAPABILITY + 1):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # EINVAL: the kernel knows no more of them
    check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient")
    check(libc.prctl(PR_SET_SECUREBITS, SECUREBITS_ALL_LOCKED, 0, 0, 0), "securebits")
    os.setgroups([])
    os.setresgid(ENCLAVE_ID, ENCLAVE_ID, ENCLAVE_ID)
    os.setresuid(ENCLAVE_ID, ENCLAVE_ID, ENCLAVE_ID)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


STEPS = (nodes, fix_kernel, drop_rights)


def main() -> None:
    step = "devices"
    try:
        if os.getpid() == 1:
            devices()
        for part in STEPS:
            step = part.__name__
            part()
        say("READY")
        step = "exec"
        os.chdir("/")
        os.execve(PYTHON, [PYTHON, *FLAGS, "-c", LAUNCH], ENVIRONMENT)
    except OSError as error:
        say(f"FAILED {step} {error.errno} {error.strerror}")
        os._exit(1)


if __name__ == "__main__":
    main()
