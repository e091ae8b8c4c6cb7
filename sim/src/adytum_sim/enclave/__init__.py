"""The enclave stand-in: the real trusted program over Unix sockets and a simulated NSM, as a process of its own."""
