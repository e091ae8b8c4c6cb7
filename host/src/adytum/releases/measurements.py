"""A release out of the files that a build leaves: measurements (nitro-cli's form), or a provenance that holds them.

Both have `"Measurements": {"PCR0": "<96 hex>", ...}`; of what else a provenance says, the short facts are kept to show.
"""

from __future__ import annotations

from typing import Any, Final

from adytum.releases.errors import ReleaseCode, ReleaseError
from adytum.releases.release import MANDATORY, OPTIONAL
from adytum_verify import AttestationError, parse_release
from adytum_wire import strict_json
from adytum_wire.errors import AdytumError, Code

MAX_FILE: Final = 4 * 1024 * 1024  # bytes; a provenance lists every file of the image
_SHOWN: Final = ("tool", "commit", "clean", "image", "trusted_python")


def read_measurements(data: bytes) -> tuple[dict[int, bytes], dict[str, Any]]:
    """(PCRs, provenance). A zero PCR8 (an unsigned image) and PCRs that a release does not fix are left out.

    Errors: MEASUREMENTS_INVALID, also for an image in debug mode.
    """
    try:
        found = strict_json.decode(data, dict[str, Any], limit=MAX_FILE, code=Code.REQUEST_INVALID)
        measured = found.get("Measurements", found)
        policy = parse_release(strict_json.encode({"Measurements": measured}))
    except AdytumError:
        raise ReleaseError(ReleaseCode.MEASUREMENTS_INVALID, "file") from None
    except AttestationError as error:
        raise ReleaseError(ReleaseCode.MEASUREMENTS_INVALID, f"{error.code.value} {error.field}".strip()) from None
    pcrs = {
        index: value for index, value in policy.pcrs.items() if index in MANDATORY or (index in OPTIONAL and any(value))
    }
    return pcrs, {name: found[name] for name in _SHOWN if name in found}
