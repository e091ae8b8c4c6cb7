"""All I/O of the trusted side: vsock, NSM device, KMS over TLS, clock, entropy. `main.py` is the production entry
point; `program.py` wires the parts on one screen."""
