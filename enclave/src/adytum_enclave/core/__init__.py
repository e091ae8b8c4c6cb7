"""The trusted program without its I/O: bytes in, replies and effects out. The shell owns sockets, clock and device.

Start reading at `enclave.py` (the state), then `pipeline.py` (the way of one request), then `steps/`.
"""
