"""Coverage-guided fuzzing of the CMS parser: `python enclave/fuzz/fuzz_cms.py CORPUS -max_len=7000 -runs=1000000`.

The property: a `CmsEnvelope` of the right sizes, or `AdytumError(KMS_ANSWER_INVALID)`. Anything else is a finding.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["adytum_enclave.core.cms"]):
    from adytum_enclave.core.cms import parse_cms

from adytum_wire.errors import AdytumError, Code


def one_input(data: bytes) -> None:
    try:
        envelope = parse_cms(data)
    except AdytumError as error:
        if error.code is not Code.KMS_ANSWER_INVALID:
            raise
        return
    sizes = (len(envelope.ski), len(envelope.encrypted_key), len(envelope.iv), len(envelope.ciphertext) % 16)
    if sizes != (32, 256, 16, 0) or not envelope.ciphertext:
        raise RuntimeError("the parser accepted a wrong size")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
