"""docs/reference/kms-stand-in.md, docs/how-to/use-the-kms-stand-in.md and docs/comparison.md say what is so.

The reference page's lists are compared with the code; each row of its table of attestation cases is carried out with
boto3 against a running stand-in; the guide's commands are run as they stand there.

Example: `python sim/tests/test_sim_kms_comparison.py` prints the page's table of operations anew.
"""

from __future__ import annotations

import base64
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from adytum.kms_policy import conditions, keys
from adytum_sim.command import kms as kms_command
from adytum_sim.kms import KmsFault, KmsService, Quotas, RunningKms, State, attested_key_policy, kms_in_thread
from adytum_sim.kms.caller import root_caller
from adytum_sim.kms.faults import COUNTED
from adytum_sim.kms.operations import OPERATIONS, UNSUPPORTED
from adytum_sim.kms.params import _UNSUPPORTED as UNSUPPORTED_MEMBERS
from adytum_sim.kms.process import Options, running_process
from adytum_sim.kms.running import system_clock_ms
from adytum_sim.nsm import SimNsm, build_unsigned_document, cbor
from adytum_sim.pki import DevPki
from adytum_verify import AttestationCode, AttestationError, authenticate_document
from adytum_wire.requests import OPERATIONS as REQUESTS
from adytum_wire.requests import Content
from adytum_wire.types import SigningScheme

DOCS = Path(__file__).resolve().parents[2] / "docs"
REFERENCE = DOCS / "reference" / "kms-stand-in.md"
COMPARISON = DOCS / "comparison.md"
HOW_TO = DOCS / "how-to" / "use-the-kms-stand-in.md"
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
IMAGE = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}
CONTEXT = {"ab": "c"}
HOUR = 3_600_000
OURS = "`adytum sim kms` (tested)"


# --- reading the pages


def section(page: str, heading: str) -> str:
    """The text under `## heading`, up to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def table(text: str) -> list[dict[str, str]]:
    """The rows of the only table in `text`, by column name."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    head, rule, *body = rows
    assert body
    assert set("".join(rule)) <= set("-:| ")
    assert all(len(row) == len(head) for row in body), [row for row in body if len(row) != len(head)]
    return [dict(zip(head, row, strict=True)) for row in body]


def names_in(text: str) -> set[str]:
    """What stands in code spans, with `<a-b>` counted out."""
    found: set[str] = set()
    for name in re.findall(r"`([^`\n]+)`", text):
        span = re.search(r"<(\d+)-(\d+)>", name)
        numbers = range(int(span[1]), int(span[2]) + 1) if span else [None]
        found |= {name if n is None else re.sub(r"<.*>", str(n), name) for n in numbers}
    assert found
    return found


def first_column(text: str) -> set[str]:
    rows = table(text)
    names = [next(iter(row.values())).strip("`") for row in rows]
    assert len(set(names)) == len(names)
    return set(names)


@pytest.fixture(scope="module")
def page() -> str:
    return REFERENCE.read_text(encoding="utf-8")


# --- the lists


def takes_recipient(name: str) -> str:
    """What the operation does with a Recipient, asked of the service itself."""
    if "Recipient" not in OPERATIONS[name].members:
        return "–"
    service = KmsService(State(), anchors=[], now_ms=system_clock_ms, random_bytes=os.urandom)
    blob = "eA=="
    payload = {"KeyId": "x", "CiphertextBlob": blob, "Plaintext": blob, "DestinationKeyId": "x", "Recipient": {}}
    payload = {key: value for key, value in payload.items() if key in OPERATIONS[name].members}
    try:
        service.handle(f"TrentService.{name}", payload, root_caller(account="111122223333"))
    except KmsFault as fault:
        return "refused" if f"{name} does not take a Recipient" in (fault.message or "") else "yes"
    raise AssertionError(name)


def operations_table() -> str:
    rows = ["| operation | members | Recipient |", "|---|---|---|"]
    for name, operation in sorted(OPERATIONS.items()):
        members = ", ".join(sorted(operation.members - {"Recipient"}))
        rows.append(f"| `{name}` | {members} | {takes_recipient(name)} |")
    return "\n".join(rows)


def test_the_operations_are_those_of_the_code(page: str) -> None:
    assert operations_table() in section(page, "Operations")
    assert first_column(section(page, "Operations")) == set(OPERATIONS)


def test_what_is_refused_by_name_is_that_of_the_code(page: str) -> None:
    text = section(page, "Refused by name")
    operations, _, members = text.partition("Members of requests")
    assert names_in(operations) - {"UnsupportedOperationException", "UnknownOperationException"} == UNSUPPORTED
    assert names_in(members) - {"UnsupportedOperationException", "ValidationException"} == set(UNSUPPORTED_MEMBERS)


def test_the_condition_keys_are_those_of_the_code(page: str) -> None:
    text = section(page, "Condition keys")
    evaluated, _, rest = text.partition("Real keys that it does not evaluate")
    absent, _, operators = rest.partition("Operators")
    family = keys.ENCRYPTION_CONTEXT + "<name>"
    assert {name.lower() for name in names_in(evaluated)} == {*keys.EVALUATED, family}
    assert {name.lower() for name in names_in(absent)} == keys.REAL_BUT_ABSENT
    assert names_in(operators) == {*conditions.OPERATORS, "Null", "IfExists", "ForAllValues", "ForAnyValue"}


def test_the_faults_are_those_of_the_code(page: str) -> None:
    assert first_column(section(page, "Faults")) == {*COUNTED, "delay_ms"}


def test_the_options_are_those_of_the_command(page: str) -> None:
    options = {option for parameter in kms_command.params for option in parameter.opts}
    assert first_column(section(page, "The command")) == options


async def test_the_ready_line_has_the_members_that_the_page_names(page: str, tmp_path: Path) -> None:
    options = Options(
        directory=tmp_path / "kms", port=0, region="us-east-1", account="111122223333", pcrs=IMAGE, imds_port=0
    )
    async with running_process(options) as ready:
        assert first_column(section(page, "The ready line")) == set(ready)


def test_the_quotas_are_those_of_the_code(page: str) -> None:
    defaults = inspect.signature(Quotas).parameters
    for name in ("cryptographic", "management"):
        assert f"{defaults[name].default:,}" in section(page, "Limits")


# --- what docs/comparison.md says of this code


def test_the_comparison_names_what_there_is() -> None:
    """When this fails, something was added: say so there, also where the page still says that it is missing."""
    text = COMPARISON.read_text(encoding="utf-8")
    [line] = re.findall(r"compares this line with the code:\n(.*?)\n\n", text, re.DOTALL)
    contents = {kind.__struct_config__.tag for kind in get_args(Content)}
    assert names_in(line) == {*REQUESTS.values(), *SigningScheme, *contents}


# --- the attestation cases


class Scene:
    """Two keys under the attested policy, one whose policy lets ReEncrypt through, one under AWS's default policy."""

    def __init__(self, kms: RunningKms, role: Any, operator: Any, recipient: Callable[..., Any]) -> None:
        self.kms, self.role, self.operator, self._recipient = kms, role, operator, recipient
        attested = attested_key_policy(account=kms.account, role_arn=kms.role_arn, pcrs=IMAGE)
        self.key, self.other = kms.create_key(attested), kms.create_key(attested)
        self.leaky, self.open = kms.create_key(leaky_policy(kms)), kms.create_key()
        self.sealed = self.data_key(self.key)

    def document(self, pki: DevPki | None = None, **options: Any) -> bytes:
        return bytes(self._recipient(pki or self.kms.pki, **options).document)

    @property
    def spki(self) -> bytes:
        return bytes(self._recipient(self.kms.pki).spki)

    def decrypt(self, document: bytes | None, **changed: Any) -> Any:
        more = {} if document is None else {"Recipient": parameter(document)}
        request = {"CiphertextBlob": self.sealed, "KeyId": self.key, "EncryptionContext": CONTEXT} | more | changed
        return self.role.decrypt(**request)

    def data_key(self, key: str) -> bytes:
        made = self.role.generate_data_key(
            KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT, Recipient=parameter(self.document())
        )
        return bytes(made["CiphertextBlob"])

    def around(self, key: str) -> Any:
        """ReEncrypt to the key without attestation, then Decrypt there."""
        moved = self.operator.re_encrypt(
            CiphertextBlob=self.data_key(key),
            SourceEncryptionContext=CONTEXT,
            SourceKeyId=key,
            DestinationKeyId=self.open,
        )
        return self.role.decrypt(CiphertextBlob=moved["CiphertextBlob"], KeyId=self.open)

    def under_the_default_policy(self) -> Any:
        made = self.role.generate_data_key(KeyId=self.open, KeySpec="AES_256")
        return self.role.decrypt(CiphertextBlob=made["CiphertextBlob"])

    def with_the_image_in_pcr16(self) -> bytes:
        """A strange program whose PCR16 equals the image's PCR0."""
        pcrs = {0: b"\x66" * 48, 1: b"\x66" * 48, 2: b"\x66" * 48, 16: IMAGE[0]}
        nsm = SimNsm(self.kms.pki, module_id=MODULE_ID, pcrs=pcrs, clock_ms=system_clock_ms)
        nsm.request(cbor.encode({"LockPCR": {"index": 16}}))
        asked = {"Attestation": {"user_data": None, "nonce": None, "public_key": self.spki}}
        answer = cbor.decode(nsm.request(cbor.encode(asked)))
        assert isinstance(answer, dict)
        return bytes(answer["Attestation"]["document"])

    def signed(self, **changed: object) -> bytes:
        """A document signed under the right root with some fields changed; None takes a field out."""
        now = system_clock_ms()
        chain = self.kms.pki.chain(module_id=MODULE_ID, now_ms=now)
        fields: dict[str, object] = {
            "module_id": MODULE_ID,
            "digest": "SHA384",
            "timestamp": cbor.Wide(now),
            "pcrs": {index: bytes(48) for index in range(16)} | IMAGE,
            "certificate": chain.certificate,
            "cabundle": list(chain.cabundle),
            "public_key": self.spki,
        }
        fields = {name: value for name, value in (fields | changed).items() if value is not None}
        payload, algorithm = cbor.encode(fields), bytes.fromhex("a1013822")
        to_sign = cbor.encode(["Signature1", algorithm, b"", payload])
        r, s = decode_dss_signature(chain.leaf_key.sign(to_sign, ec.ECDSA(hashes.SHA384())))
        return cbor.encode([algorithm, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")])

    def of_a_nitrotpm_instance(self) -> bytes:
        measured = {index: bytes(48) for index in range(24)}
        document = self.signed(module_id=f"{MODULE_ID[:19]}-tpm0000000000000000", pcrs=None, nitrotpm_pcrs=measured)
        with pytest.raises(AttestationError) as caught:
            authenticate_document(document, anchors=(self.kms.anchor,), now_ms=system_clock_ms())
        assert caught.value.code is AttestationCode.NITROTPM
        return document

    def of_qemu(self) -> bytes:
        pcrs = {index: bytes(48) for index in range(16)} | IMAGE
        return build_unsigned_document(
            module_id="i-234-enc5678", timestamp_ms=system_clock_ms(), pcrs=pcrs, public_key=self.spki
        )


def leaky_policy(kms: RunningKms) -> dict[str, Any]:
    """The attested policy whose author forgot that ReEncrypt takes no Recipient."""
    policy = attested_key_policy(account=kms.account, role_arn=kms.role_arn, pcrs=IMAGE)
    statements = [statement for statement in policy["Statement"] if statement["Sid"] != "NoWayAround"]
    allow = {
        "Sid": "Forgotten",
        "Effect": "Allow",
        "Principal": {"AWS": kms.operator.caller.arn},
        "Action": "kms:ReEncrypt*",
        "Resource": "*",
    }
    return policy | {"Statement": [*statements, allow]}


def parameter(document: bytes) -> dict[str, Any]:
    return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}


def flipped(document: bytes) -> bytes:
    changed = bytearray(document)
    changed[-1] ^= 1
    return bytes(changed)


CASES: dict[str, Callable[[Scene], Any]] = {
    "good document": lambda s: s.decrypt(s.document()),
    "good document, sent a second time": lambda s: [s.decrypt(d) for d in [s.document()] * 2][1],
    "PCR0 off by one bit": lambda s: s.decrypt(s.document(pcrs=IMAGE | {0: b"\x11" + IMAGE[0][1:]})),
    "PCR16 shows the image's PCR0": lambda s: s.decrypt(s.with_the_image_in_pcr16()),
    "debug enclave (PCR0, 1, 2 zero)": lambda s: s.decrypt(s.document(debug=True)),
    "no Recipient": lambda s: s.decrypt(None),
    "no Recipient, key under AWS's default policy": lambda s: s.under_the_default_policy(),
    "garbage document": lambda s: s.decrypt(b"this is no attestation document"),
    "one bit of the document's signature flipped": lambda s: s.decrypt(flipped(s.document())),
    "expired document (four hours old)": lambda s: s.decrypt(
        s.document(module_id=MODULE_ID[:-1] + "0", clock_ms=lambda: system_clock_ms() - 4 * HOUR)
    ),
    "document under another root": lambda s: s.decrypt(s.document(DevPki.create(system_clock_ms()))),
    "NitroTPM document": lambda s: s.decrypt(s.of_a_nitrotpm_instance()),
    "QEMU's unsigned document": lambda s: s.decrypt(s.of_qemu()),
    "other EncryptionContext": lambda s: s.decrypt(s.document(), EncryptionContext={"x": "y"}),
    "EncryptionContext {a: bc} for {ab: c}": lambda s: s.decrypt(s.document(), EncryptionContext={"a": "bc"}),
    "wrong KeyId": lambda s: s.decrypt(s.document(), KeyId=s.other),
    "ReEncrypt to another key, then Decrypt there": lambda s: s.around(s.key),
    "the same, under a policy that forgot ReEncrypt": lambda s: s.around(s.leaky),
}


def outcome(call: Callable[[], Any]) -> str:
    """What came back: the members that carry something, or the code of the refusal."""
    try:
        answer = call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "+".join(name for name in ("Plaintext", "CiphertextForRecipient") if answer.get(name))


@pytest.fixture(scope="module")
def scene(kms: RunningKms, role: Any, operator: Any, recipient: Callable[..., Any]) -> Scene:
    return Scene(kms, role, operator, recipient)


@pytest.fixture(scope="module")
def rows(page: str) -> dict[str, dict[str, str]]:
    return {row["Decrypt with"]: row for row in table(section(page, "Attestation cases"))}


def test_the_table_has_every_case_and_no_other(rows: dict[str, dict[str, str]], page: str) -> None:
    assert list(rows) == list(CASES)
    assert len(table(section(page, "Attestation cases"))) == len(CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_table_says_what_the_stand_in_answers(case: str, scene: Scene, rows: dict[str, dict[str, str]]) -> None:
    assert rows[case][OURS] == f"`{outcome(lambda: CASES[case](scene))}`"


def test_a_document_that_the_test_signs_itself_is_a_good_one(scene: Scene) -> None:
    """Else the NitroTPM case might be refused for another reason than its own."""
    assert outcome(lambda: scene.decrypt(scene.signed())) == "CiphertextForRecipient"


def test_the_envelope_opens_to_the_data_key(
    scene: Scene, recipient: Callable[..., Any], open_cms: Callable[[bytes, bytes], bytes]
) -> None:
    answer = scene.decrypt(scene.document())
    assert len(open_cms(answer["CiphertextForRecipient"], recipient(scene.kms.pki).pem)) == 32


def test_the_option_for_qemu_documents_does_what_the_page_says(recipient: Callable[..., Any], tmp_path: Path) -> None:
    with kms_in_thread(accept_unsigned_documents=True) as kms:
        key = kms.create_key(attested_key_policy(account=kms.account, role_arn=kms.role_arn, pcrs=IMAGE))
        document = build_unsigned_document(
            module_id="i-234-enc5678",
            timestamp_ms=system_clock_ms(),
            pcrs={index: bytes(48) for index in range(16)} | IMAGE,
            public_key=recipient(kms.pki).spki,
        )
        payload = {"KeyId": key, "KeySpec": "AES_256", "Recipient": parameter(document)}
        payload["Recipient"]["AttestationDocument"] = base64.b64encode(document).decode()
        assert "CiphertextForRecipient" in kms.service.handle("TrentService.GenerateDataKey", payload, kms.role.caller)


# --- the guide


def blocks(text: str) -> list[tuple[str, str]]:
    """(info string, contents) of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_guide_runs_as_it_stands(tmp_path: Path) -> None:
    """Its files are written, its commands are one shell script, and what it says they print is what they print."""
    missing = [tool for tool in ("bash", "curl", "openssl") if shutil.which(tool) is None]
    if missing:
        if os.environ.get("CI"):
            pytest.fail(f"missing: {missing}")
        pytest.skip(f"not on this machine: {missing}")
    found = blocks(HOW_TO.read_text(encoding="utf-8"))
    assert {info.partition(" ")[0] for info, _ in found} == {"sh", "python", "text"}
    for info, contents in found:
        if info.startswith("python "):
            (tmp_path / info.removeprefix("python ")).write_text(contents)
    script = "".join(contents for info, contents in found if info == "sh")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
    }
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=90)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the stand-in, if the script did not come to its end
        process.wait()
    assert process.returncode == 0, output
    expected = [line for info, contents in found if info == "text" for line in contents.splitlines()]
    assert expected
    printed = iter(line.strip() for line in output.splitlines())
    for line in expected:
        assert any(line in one for one in printed), (line, output)


if __name__ == "__main__":
    print(operations_table())
