"""The errors of this distribution: a stable `code` each, and a text without bytes of a file that is not trusted."""

from __future__ import annotations

from enum import StrEnum


class EifCode(StrEnum):
    """Why a file is not a valid EIF, in the order in which the reader checks."""

    TOO_SHORT = "EIF_TOO_SHORT"
    TOO_LARGE = "EIF_TOO_LARGE"
    MAGIC = "EIF_MAGIC"
    VERSION = "EIF_VERSION"
    FLAGS = "EIF_FLAGS"
    RESERVED = "EIF_RESERVED"
    SECTION_COUNT = "EIF_SECTION_COUNT"
    SECTION_TABLE = "EIF_SECTION_TABLE"
    SECTION_HEADER = "EIF_SECTION_HEADER"
    SECTION_TYPE = "EIF_SECTION_TYPE"
    SECTION_ORDER = "EIF_SECTION_ORDER"
    SECTION_MISSING = "EIF_SECTION_MISSING"
    SECTION_EMPTY = "EIF_SECTION_EMPTY"
    CRC = "EIF_CRC"
    CMDLINE = "EIF_CMDLINE"
    METADATA = "EIF_METADATA"
    SIGNATURE_FORMAT = "EIF_SIGNATURE_FORMAT"
    SIGNATURE_CERTIFICATE = "EIF_SIGNATURE_CERTIFICATE"
    SIGNATURE_PCR = "EIF_SIGNATURE_PCR"
    SIGNATURE_INVALID = "EIF_SIGNATURE_INVALID"
    KEY = "EIF_KEY"


class EifError(ValueError):
    """The one error of the EIF reader, writer and signer. `code` is stable; `section` is an index or -1."""

    def __init__(self, code: EifCode, section: int = -1) -> None:
        super().__init__(code.value if section < 0 else f"{code.value} (section {section})")
        self.code = code
        self.section = section


class CpioError(ValueError):
    """An archive is not the newc subset that we write: `code` is stable."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class BuildError(RuntimeError):
    """An image could not be built. `code` is stable, `detail` names our own input (a package, a path of the image)."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class RigError(RuntimeError):
    """The rig could not be prepared or a machine did not start. `code` is stable, `detail` says what to do."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
