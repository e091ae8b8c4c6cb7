"""Each rule of the chain, broken alone, in a PKI that is otherwise shaped as AWS's."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from adytum_verify import Anchor, AttestationCode, AttestationError, anchor_from_pem, authenticate_document

NOW_MS = 1_790_000_000_000
CODE = AttestationCode


def attempt(pki: Any, document: bytes | None = None) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        authenticate_document(document or pki.document(), anchors=[pki.anchor], now_ms=NOW_MS)
    return caught.value


def other(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def unknown(critical: bool) -> dict[str, Any]:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    return {"extension": extension, "extension_critical": critical}


def test_the_sound_pki_verifies_and_openssl_agrees(pki: Any, tmp_path: Path) -> None:
    found = authenticate_document(pki.document(), anchors=[pki.anchor], now_ms=NOW_MS)
    assert found.valid_from_ms == NOW_MS - 600_000
    assert found.valid_until_ms == NOW_MS + 10_200_000 + 999
    paths = {}
    for place, der in pki.certificates.items():
        paths[place] = tmp_path / f"{place}.pem"
        pem = subprocess.run(["openssl", "x509", "-inform", "DER"], input=der, capture_output=True, check=True).stdout
        paths[place].write_bytes(pem)
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"".join(paths[place].read_bytes() for place in ("region", "zone", "instance")))
    subprocess.run(
        [
            "openssl",
            "verify",
            "-attime",
            str(NOW_MS // 1000),
            "-CAfile",
            paths["root"],
            "-untrusted",
            bundle,
            paths["leaf"],
        ],
        check=True,
        capture_output=True,
    )


BROKEN: list[tuple[str, str, dict[str, Any], AttestationCode]] = [
    ("leaf without digitalSignature", "leaf", {"usage": ("content_commitment",)}, CODE.CHAIN_KEY_USAGE),
    ("leaf without key usage", "leaf", {"usage": None}, CODE.CHAIN_KEY_USAGE),
    (
        "leaf that may sign certificates",
        "leaf",
        {"usage": ("digital_signature", "key_cert_sign")},
        CODE.CHAIN_KEY_USAGE,
    ),
    ("leaf that is a CA", "leaf", {"ca": True}, CODE.CHAIN_CONSTRAINTS),
    ("leaf without constraints", "leaf", {"ca": None}, CODE.CHAIN_CONSTRAINTS),
    ("leaf on P-256", "leaf", {"curve": ec.SECP256R1()}, CODE.CHAIN_ALGORITHM),
    ("leaf on P-521", "leaf", {"curve": ec.SECP521R1()}, CODE.CHAIN_ALGORITHM),
    ("leaf signed with SHA-256", "leaf", {"hash": hashes.SHA256()}, CODE.CHAIN_ALGORITHM),
    ("leaf signed with SHA-512", "leaf", {"hash": hashes.SHA512()}, CODE.CHAIN_ALGORITHM),
    ("leaf of another issuer name", "leaf", {"issuer": other("someone")}, CODE.CHAIN_NAMES),
    ("leaf signed by another key", "leaf", {"forged": True}, CODE.CHAIN_SIGNATURE),
    ("leaf expired", "leaf", {"lifetime": (timedelta(hours=3), -timedelta(seconds=1))}, CODE.EXPIRED),
    ("leaf of tomorrow", "leaf", {"lifetime": (-timedelta(seconds=1), timedelta(hours=3))}, CODE.NOT_YET_VALID),
    ("leaf with an unknown critical extension", "leaf", unknown(critical=True), CODE.CHAIN_EXTENSION),
    ("instance on P-256", "instance", {"curve": ec.SECP256R1()}, CODE.CHAIN_ALGORITHM),
    ("instance with path length 1", "instance", {"path_length": 1}, CODE.CHAIN_CONSTRAINTS),
    ("instance without path length", "instance", {"path_length": None}, CODE.CHAIN_CONSTRAINTS),
    ("instance that is no CA", "instance", {"ca": False, "path_length": None}, CODE.CHAIN_CONSTRAINTS),
    (
        "instance whose constraints are not critical",
        "instance",
        {"constraints_critical": False},
        CODE.CHAIN_CONSTRAINTS,
    ),
    ("instance without keyCertSign", "instance", {"usage": ("digital_signature",)}, CODE.CHAIN_KEY_USAGE),
    ("instance whose usage is not critical", "instance", {"usage_critical": False}, CODE.CHAIN_KEY_USAGE),
    ("instance expired", "instance", {"lifetime": (timedelta(days=2), -timedelta(days=1))}, CODE.EXPIRED),
    ("instance signed by another key", "instance", {"forged": True}, CODE.CHAIN_SIGNATURE),
    ("zone with path length 0", "zone", {"path_length": 0}, CODE.CHAIN_CONSTRAINTS),
    ("zone with path length 2", "zone", {"path_length": 2}, CODE.CHAIN_CONSTRAINTS),
    ("zone without key usage", "zone", {"usage": None}, CODE.CHAIN_KEY_USAGE),
    ("zone expired", "zone", {"lifetime": (timedelta(days=9), -timedelta(days=3))}, CODE.EXPIRED),
    ("zone with an unknown critical extension", "zone", unknown(critical=True), CODE.CHAIN_EXTENSION),
    ("region with path length 3", "region", {"path_length": 3}, CODE.CHAIN_CONSTRAINTS),
    ("region signed with SHA-256", "region", {"hash": hashes.SHA256()}, CODE.CHAIN_ALGORITHM),
    ("region of another root's name", "region", {"issuer": other("root")}, CODE.CHAIN_NAMES),
    ("region signed by another key", "region", {"forged": True}, CODE.CHAIN_SIGNATURE),
    ("region of tomorrow", "region", {"lifetime": (-timedelta(days=1), timedelta(days=3))}, CODE.NOT_YET_VALID),
    ("root expired", "root", {"lifetime": (timedelta(days=9), -timedelta(days=3))}, CODE.EXPIRED),
    ("root that is no CA", "root", {"ca": False}, CODE.CHAIN_CONSTRAINTS),
    ("root with too short a path", "root", {"path_length": 2}, CODE.CHAIN_CONSTRAINTS),
    ("root without keyCertSign", "root", {"usage": ("crl_sign",)}, CODE.CHAIN_KEY_USAGE),
    ("root on P-256", "root", {"curve": ec.SECP256R1()}, CODE.CHAIN_ALGORITHM),
]
PLACE = {
    "root": "cabundle[0]",
    "region": "cabundle[1]",
    "zone": "cabundle[2]",
    "instance": "cabundle[3]",
    "leaf": "certificate",
}


@pytest.mark.parametrize(("place", "change", "code"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_rule_is_refused(make_pki: Any, place: str, change: dict[str, Any], code: AttestationCode) -> None:
    error = attempt(make_pki(**{place: change}))
    assert (error.code, error.field) == (code, PLACE[place])


@pytest.mark.parametrize(
    "change",
    [
        {"leaf": unknown(critical=False)},
        {"root": {"path_length": 3}},
        {"leaf": {"usage_critical": True}},
        {"leaf": {"usage": ("digital_signature",)}},
    ],
)
def test_harmless_variation_verifies(make_pki: Any, change: dict[str, Any]) -> None:
    pki = make_pki(**change)
    authenticate_document(pki.document(), anchors=[pki.anchor], now_ms=NOW_MS)


def test_leaf_with_an_rsa_key_is_refused(make_pki: Any, pki: Any) -> None:
    rsa_leaf = make_pki(leaf={"rsa": True}).certificates["leaf"]
    assert attempt(pki, pki.document(certificate=rsa_leaf)).code is CODE.CHAIN_ALGORITHM


def chain(pki: Any, *places: str) -> list[bytes]:
    return [pki.certificates[place] for place in places]


@pytest.mark.parametrize(
    ("places", "code"),
    [
        ((), CODE.PAYLOAD_FIELD),
        (("root",), CODE.CHAIN_LENGTH),
        (("root", "region", "zone"), CODE.CHAIN_LENGTH),
        (("region", "zone", "instance"), CODE.CHAIN_LENGTH),
        (("root", "region", "zone", "instance", "instance"), CODE.CHAIN_LENGTH),
        (("root", "root", "region", "zone"), CODE.CHAIN_CONSTRAINTS),
        (("root", "zone", "region", "instance"), CODE.CHAIN_NAMES),
        (("region", "zone", "instance", "root"), CODE.CHAIN_ANCHOR),
        (("root", "region", "region", "instance"), CODE.CHAIN_NAMES),
        (("root", "region", "zone", "zone"), CODE.CHAIN_NAMES),
    ],
)
def test_other_bundle_is_refused(pki: Any, places: tuple[str, ...], code: AttestationCode) -> None:
    assert attempt(pki, pki.document(cabundle=chain(pki, *places))).code is code


def test_root_as_leaf_is_refused(pki: Any) -> None:
    assert attempt(pki, pki.document(certificate=pki.certificates["root"])).code is CODE.CHAIN_NAMES


def test_instance_certificate_as_leaf_is_refused(pki: Any) -> None:
    assert attempt(pki, pki.document(certificate=pki.certificates["instance"])).code is CODE.CHAIN_NAMES


def test_anchor_is_never_taken_from_the_document(pki: Any, make_pki: Any) -> None:
    """A whole chain of one's own, with the same names, under one's own root."""
    stranger = make_pki()
    with pytest.raises(AttestationError) as caught:
        authenticate_document(stranger.document(), anchors=[pki.anchor], now_ms=NOW_MS)
    assert caught.value.code is CODE.CHAIN_ANCHOR
    below_our_root = [pki.certificates["root"], *chain(stranger, "region", "zone", "instance")]
    assert attempt(pki, stranger.document(cabundle=below_our_root)).code is CODE.CHAIN_SIGNATURE


def test_last_second_of_a_certificate_counts(pki: Any) -> None:
    last = authenticate_document(pki.document(), anchors=[pki.anchor], now_ms=NOW_MS).valid_until_ms
    authenticate_document(pki.document(), anchors=[pki.anchor], now_ms=last)
    with pytest.raises(AttestationError) as caught:
        authenticate_document(pki.document(), anchors=[pki.anchor], now_ms=last + 1)
    assert caught.value.code is CODE.EXPIRED


def test_any_of_several_anchors_will_do(pki: Any, make_pki: Any) -> None:
    authenticate_document(pki.document(), anchors=iter([make_pki().anchor, pki.anchor]), now_ms=NOW_MS)


@pytest.mark.parametrize("place", ["region", "zone", "instance", "leaf"])
@pytest.mark.parametrize("junk", [b"\x30\x00", b"\x00", b"\x30\x82\xff\xff" + bytes(100), bytes(64)])
def test_malformed_certificate_is_refused(pki: Any, place: str, junk: bytes) -> None:
    changes: dict[str, Any] = {"certificate": junk}
    if place != "leaf":
        bundle = chain(pki, "root", "region", "zone", "instance")
        bundle[("root", "region", "zone", "instance").index(place)] = junk
        changes = {"cabundle": bundle}
    error = attempt(pki, pki.document(**changes))
    assert (error.code, error.field) == (CODE.CHAIN_CERTIFICATE, PLACE[place])


def test_bytes_after_a_certificate_are_refused(pki: Any) -> None:
    assert attempt(pki, pki.document(certificate=pki.certificates["leaf"] + b"\0")).code is CODE.CHAIN_CERTIFICATE


def test_inner_and_outer_algorithm_must_agree(pki: Any) -> None:
    """The outer algorithm is not signed: here it says SHA-256 while the signed part says SHA-384, and the reverse."""
    sha384, sha256 = bytes.fromhex("06082a8648ce3d040303"), bytes.fromhex("06082a8648ce3d040302")
    leaf: bytes = pki.certificates["leaf"]
    assert leaf.count(sha384) == 2
    outer = leaf.rindex(sha384)
    for edited in (leaf[:outer] + sha256 + leaf[outer + 10 :], leaf.replace(sha384, sha256, 1)):
        code = attempt(pki, pki.document(certificate=edited)).code
        assert code in (CODE.CHAIN_ALGORITHM, CODE.CHAIN_SIGNATURE)


@pytest.mark.parametrize("version", ["", "a003020100", "a003020101", "a003020103"])
def test_certificate_of_another_version_is_refused(pki: Any, version: str) -> None:
    """Versions 1 and 2 have no extensions: what readers make of a certificate that has them nevertheless differs."""
    v3 = bytes.fromhex("a003020102")
    same = pki.resigned("leaf", v3, v3)
    authenticate_document(pki.document(certificate=same), anchors=[pki.anchor], now_ms=NOW_MS)
    edited = pki.resigned("leaf", v3, bytes.fromhex(version))
    assert attempt(pki, pki.document(certificate=edited)).code is CODE.CHAIN_CERTIFICATE


def test_extension_given_twice_is_refused(pki: Any) -> None:
    """The leaf's key usage becomes a second basicConstraints."""
    usage, constraints = bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d13")
    edited = pki.resigned("leaf", usage, constraints)
    assert attempt(pki, pki.document(certificate=edited)).code is CODE.CHAIN_CERTIFICATE


@pytest.mark.parametrize("module", ["i-0123456789abcdef0-enc0123456789abcdee", "i-0123456789abcdef0", "i-0", "x"])
def test_leaf_of_another_enclave_is_refused(pki: Any, module: str) -> None:
    assert attempt(pki, pki.document(module_id=module)).code is CODE.MODULE_MISMATCH


def test_leaf_issued_by_another_instance_is_refused(make_pki: Any) -> None:
    pki = make_pki(instance={"subject": other("i-0fffffffffffffff0.eu-test-1.aws.nitro-enclaves")})
    assert attempt(pki).code is CODE.MODULE_MISMATCH


def test_leaf_with_two_common_names_is_refused(make_pki: Any) -> None:
    good = x509.NameAttribute(NameOID.COMMON_NAME, "i-0123456789abcdef0-enc0123456789abcdef.eu-test-1.aws")
    evil = x509.NameAttribute(NameOID.COMMON_NAME, "i-0123456789abcdef0-enc0000000000000000.eu-test-1.aws")
    assert attempt(make_pki(leaf={"subject": x509.Name([good, evil])})).code is CODE.MODULE_MISMATCH


@pytest.mark.parametrize("pem", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_anchor_that_is_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        anchor_from_pem(pem)
    assert caught.value.code is CODE.ANCHOR_INVALID


def test_two_certificates_are_no_anchor(pki: Any) -> None:
    assert anchor_from_pem(pki.root_pem) == pki.anchor
    with pytest.raises(AttestationError):
        anchor_from_pem(pki.root_pem * 2)
    with pytest.raises(AttestationError):
        Anchor(b"short")
