"""The way from the host to its enclaves: endpoints, multiplexed connections, and a client with a method per message."""

from adytum.enclave.client import Backoff, EnclaveClient
from adytum.enclave.connection import EnclaveConnection
from adytum.enclave.endpoint import Endpoint, UnixEndpoint, VhostEndpoint, VsockEndpoint

__all__ = [
    "Backoff",
    "EnclaveClient",
    "EnclaveConnection",
    "Endpoint",
    "UnixEndpoint",
    "VhostEndpoint",
    "VsockEndpoint",
]
