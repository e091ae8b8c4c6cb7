"""Every limit of the protocol, once, with its unit. Nothing else in the tree repeats one of these numbers."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024

# of frames, in bytes
MAX_PAYLOAD: Final = 256 * KIB
SLICE: Final = 31 * KIB  # one send(); larger vsock writes are corrupted silently by some kernels

# of request bodies and documents, in bytes
MAX_BODY: Final = 64 * KIB
MAX_MANIFEST: Final = 64 * KIB
MAX_POLICY: Final = 128 * KIB
MAX_RECORD_HEADER: Final = 4 * KIB
MAX_SECRET: Final = 16 * KIB  # plaintext of a `secret` record
MAX_CONTENT: Final = 24 * KIB  # bytes to decode and sign
MAX_DATA_KEY_CIPHERTEXT: Final = 6144  # what KMS Decrypt takes
MAX_FILE: Final = 32 * KIB  # a file to import, with its password, sealed
MAX_RECOVERY_SHARES: Final = 120  # sets of holders that can open a recovery envelope
MAX_RECOVERY_BYTES: Final = 48 * KIB  # of all shares of one
MAX_SCRYPT_MEMORY: Final = 256 * KIB * KIB  # bytes, of what a password of a file is stretched with: 128 * n * r
MAX_SCRYPT_WORK: Final = 2**22  # n * r * p
MAX_SCRYPT_LANES: Final = 16  # p
MAX_PBKDF2_ROUNDS: Final = 2**21
MAX_SALT: Final = 255  # bytes
MAX_PASSWORD: Final = 1 * KIB  # bytes, of a file
MAX_APPROVALS: Final = 32  # with one request
MAX_STATEMENT: Final = 2 * KIB  # bytes of an approval's statement
MAX_CLIENT_DATA: Final = 2 * KIB  # of a WebAuthn assertion; so are the next two
MAX_AUTHENTICATOR_DATA: Final = 1 * KIB
MAX_ASSERTION_SIGNATURE: Final = 512
MAX_MERKLE_PATH: Final = 32  # nodes: a batch of up to 2**32 requests
MAX_APPROVAL_MS: Final = 7 * 86_400_000  # from when a statement was issued to when it expires
MAX_REMEMBERED_COUNTERS: Final = 64  # of one passkey
MAX_REMEMBERED_REJECTIONS: Final = 4_096  # of one principal
MAX_USAGE_SNAPSHOT: Final = 128 * KIB
MAX_JSON_DEPTH: Final = 16

# attestation (bytes); NSM caps user_data and nonce at 512 and public_key at 1024
MIN_NONCE: Final = 16
MAX_NONCE: Final = 64
MAX_ATTESTATION_DOCUMENT: Final = 16 * KIB

# flow
MAX_DEADLINE_MS: Final = 60_000
MAX_IN_FLIGHT: Final = 1024  # data port, per shard, over all its connections
MAX_CONTROL_IN_FLIGHT: Final = 16
MAX_CONNECTIONS: Final = 64
FRAME_TIMEOUT_MS: Final = 5_000  # a frame that has begun must be complete by then
RETRY_AFTER_MS: Final = 50
PAUSE_UNSENT: Final = 1024 * KIB  # bytes waiting for a peer that does not read: from here its own bytes are not read
MAX_UNSENT: Final = 8 * 1024 * KIB  # bytes; beyond it the connection is closed

MAX_SESSIONS: Final = 1_024  # open at a time, of all tenants
MAX_SESSIONS_OF_PRINCIPAL: Final = 64
MAX_WAITING_IMPORTS: Final = 8  # of one tenant, before their turn
RETRY_IMPORT_MS: Final = 1_000
MAX_SESSION_MS: Final = 12 * 3_600_000

# replay memory (entries, and bytes of answers); beyond it new requests get RESOURCE_EXHAUSTED until the window moves
MAX_REMEMBERED_REQUESTS: Final = 500_000
MAX_REMEMBERED_ANSWERS: Final = 2_048  # in each of two memories; so are the bytes
MAX_REMEMBERED_ANSWER_BYTES: Final = 24 * 1024 * KIB

# receipts kept for a host that lost an answer: how many, how many bytes, and how many bytes of them one reply carries
MAX_REMEMBERED_RECEIPTS: Final = 8_192
MAX_REMEMBERED_RECEIPT_BYTES: Final = 32 * 1024 * KIB
MAX_RECEIPTS_REPLY: Final = 192 * KIB

# ports (vsock numbers; a Unix socket in development carries the number in its name)
CONTROL_PORT: Final = 5000
DATA_PORT: Final = 5001
KMS_PORT: Final = 8000
IMDS_PORT: Final = 8001
ANCHOR_PORT: Final = 8002
