"""`tee.enabled: false`: there is no enclave, and every question to it says so. Reads and audit go on."""

from __future__ import annotations

from typing import NoReturn

from adytum_wire.errors import AdytumError, Code


class AbsentEnclave:
    """Every method raises PEER_UNAVAILABLE."""

    async def hello(self, **_: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def configure(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def set_credentials(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def put_policy(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def put_usage(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def put_anchor_credentials(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def reset_usage(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def get_usage(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def attest(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def health(self, **_: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def get_receipts(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def checkpoint(self, **_: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    async def execute(self, *_: object, **__: object) -> NoReturn:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    def close(self) -> None:
        """Nothing is open."""
