"""The cryptographic operations on symmetric keys. Source: AWS KMS API Reference, one page an operation."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from adytum_sim.kms import keys
from adytum_sim.kms.call import NO_CONTEXT, SYMMETRIC, Answer, Call
from adytum_sim.kms.errors import KmsFault, invalid
from adytum_sim.kms.keys import Key
from adytum_sim.kms.recipient import refuse_recipient

MAX_PLAINTEXT = 4096  # bytes
MAX_CIPHERTEXT = 6144  # bytes
MAX_RANDOM = 1024  # bytes
_ALGORITHMS = (SYMMETRIC, "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE")
_KEY_SPECS = {"AES_128": 16, "AES_256": 32}
_CURVES: dict[str, ec.EllipticCurve] = {
    "ECC_NIST_P256": ec.SECP256R1(),
    "ECC_NIST_P384": ec.SECP384R1(),
    "ECC_NIST_P521": ec.SECP521R1(),
    "ECC_SECG_P256K1": ec.SECP256K1(),
}
_RSA = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
_PAIR_SPECS = (*_RSA, *_CURVES, "ECC_NIST_EDWARDS25519")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _algorithm(call: Call, name: str = "EncryptionAlgorithm") -> None:
    if call.params.choice(name, _ALGORITHMS, default=SYMMETRIC) != SYMMETRIC:
        raise KmsFault("InvalidKeyUsageException", f"{name} does not fit the key, which is {SYMMETRIC}.")


def encrypt(call: Call) -> Answer:
    refuse_recipient(call.params, call.operation)
    _algorithm(call)
    plaintext = call.params.blob("Plaintext", maximum=MAX_PLAINTEXT)
    context, key = call.params.context(), call.find()
    call.authorize_use(key, context)
    call.finish_dry_run()
    blob = keys.seal(key, plaintext, context, call.deps.random_bytes)
    return {"CiphertextBlob": _b64(blob), "KeyId": key.arn, "EncryptionAlgorithm": SYMMETRIC}


def _key_of(call: Call, blob: bytes, name: str) -> Key:
    """The key that `blob` is under; the member `name`, if given, must name the same one."""
    key_id = keys.key_id_of(blob)
    wanted = call.find(name) if name in call.params else None
    if wanted is not None and wanted.key_id != key_id:
        raise KmsFault(
            "IncorrectKeyException",
            "The key ID in the request does not identify a CMK that can perform this operation.",
        )
    if key_id not in call.state.keys:
        raise KmsFault(
            "AccessDeniedException",
            "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or "
            "you are not allowed to access.",
        )
    return call.lookup(key_id)


def decrypt(call: Call) -> Answer:
    _algorithm(call)
    blob = call.params.blob("CiphertextBlob", maximum=MAX_CIPHERTEXT)
    context = call.params.context()
    call.read_recipient()
    key = _key_of(call, blob, "KeyId")
    call.authorize_use(key, context)
    opened = keys.unseal(key, blob, context)
    call.finish_dry_run()
    members = {"KeyId": key.arn, "EncryptionAlgorithm": SYMMETRIC, "KeyMaterialId": opened.material_id}
    return call.answer("Plaintext", opened.plaintext, **members)


def re_encrypt(call: Call) -> Answer:
    refuse_recipient(call.params, call.operation)
    _algorithm(call, "SourceEncryptionAlgorithm")
    _algorithm(call, "DestinationEncryptionAlgorithm")
    blob = call.params.blob("CiphertextBlob", maximum=MAX_CIPHERTEXT)
    source_context = call.params.context("SourceEncryptionContext")
    context = call.params.context("DestinationEncryptionContext")
    source, destination = _key_of(call, blob, "SourceKeyId"), call.find("DestinationKeyId")
    same = {"kms:reencryptonsamekey": [str(source.key_id == destination.key_id).lower()]}
    call.authorize_use(source, source_context, same, action="kms:ReEncryptFrom")
    call.authorize_use(destination, context, same, action="kms:ReEncryptTo")
    opened = keys.unseal(source, blob, source_context)
    call.finish_dry_run()
    return {
        "CiphertextBlob": _b64(keys.seal(destination, opened.plaintext, context, call.deps.random_bytes)),
        "SourceKeyId": source.arn,
        "KeyId": destination.arn,
        "SourceEncryptionAlgorithm": SYMMETRIC,
        "DestinationEncryptionAlgorithm": SYMMETRIC,
        "SourceKeyMaterialId": opened.material_id,
        "DestinationKeyMaterialId": destination.material_id(),
    }


def _data_key(call: Call) -> tuple[Key, bytes, dict[str, Any]]:
    count = call.params.optional_integer("NumberOfBytes", 1, MAX_RANDOM)
    if (count is None) != ("KeySpec" in call.params):
        raise invalid("Please specify either number of bytes or key spec, and not both.")
    size = count or _KEY_SPECS[call.params.choice("KeySpec", tuple(_KEY_SPECS))]
    context, key = call.params.context(), call.find()
    call.authorize_use(key, context)
    call.finish_dry_run()
    plaintext = call.deps.random_bytes(size)
    blob = keys.seal(key, plaintext, context, call.deps.random_bytes)
    return key, plaintext, {"CiphertextBlob": _b64(blob), "KeyId": key.arn, "KeyMaterialId": key.material_id()}


def generate_data_key(call: Call) -> Answer:
    call.read_recipient()
    _, plaintext, members = _data_key(call)
    return call.answer("Plaintext", plaintext, **members)


def generate_data_key_without_plaintext(call: Call) -> Answer:
    refuse_recipient(call.params, call.operation)
    return _data_key(call)[2]


def _new_pair(spec: str) -> tuple[bytes, bytes]:
    """(PKCS#8, SubjectPublicKeyInfo), both DER."""
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey
    if spec in _RSA:
        key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA[spec])
    elif spec in _CURVES:
        key = ec.generate_private_key(_CURVES[spec])
    else:
        key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _data_key_pair(call: Call) -> tuple[bytes, dict[str, Any]]:
    spec = call.params.choice("KeyPairSpec", _PAIR_SPECS)
    context, key = call.params.context(), call.find()
    call.authorize_use(key, context, {"kms:datakeypairspec": [spec]})
    call.finish_dry_run()
    private, public = _new_pair(spec)
    return private, {
        "PrivateKeyCiphertextBlob": _b64(keys.seal(key, private, context, call.deps.random_bytes)),
        "PublicKey": _b64(public),
        "KeyId": key.arn,
        "KeyPairSpec": spec,
        "KeyMaterialId": key.material_id(),
    }


def generate_data_key_pair(call: Call) -> Answer:
    call.read_recipient()
    private, members = _data_key_pair(call)
    return call.answer("PrivateKeyPlaintext", private, **members)


def generate_data_key_pair_without_plaintext(call: Call) -> Answer:
    refuse_recipient(call.params, call.operation)
    return _data_key_pair(call)[1]


def generate_random(call: Call) -> Answer:
    call.read_recipient()
    count = call.params.optional_integer("NumberOfBytes", 1, MAX_RANDOM)
    if count is None:
        raise invalid("NumberOfBytes is required.")
    call.authorize(None, call.recipient.context() if call.recipient else NO_CONTEXT)
    return call.answer("Plaintext", call.deps.random_bytes(count))
