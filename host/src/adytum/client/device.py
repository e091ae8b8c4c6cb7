"""Approve with a FIDO2 security key that is plugged in (USB HID), without a browser.

Needs the `fido2` package (`pip install 'adytum[fido2]'`), which is imported when a device is asked for and not before.
The origin is one of those that the policy names: the key does not check it, the enclave does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from adytum.client.signers import SignerError
from adytum_policy.document import Policy
from adytum_wire.approvals import PasskeyProof
from adytum_wire.pae import APPROVAL, pae
from adytum_wire.types import sha256


class DeviceApprover:
    """`credentials`: the ids that may answer. `tell`: shown when the device waits for a touch. `ask_pin`: a device
    without a fingerprint reader wants one to know who touches it."""

    def __init__(
        self,
        *,
        rp_id: str,
        origin: str,
        credentials: Sequence[bytes],
        tell: Callable[[str], None],
        ask_pin: Callable[[], str],
    ) -> None:
        self._rp_id = rp_id
        self._origin = origin
        self._credentials = tuple(credentials)
        self._tell = tell
        self._ask_pin = ask_pin

    def prove(self, statement: bytes) -> PasskeyProof:
        """Errors: SignerError when there is no device, no such credential on it, or its owner does not confirm."""
        fido = _library()
        client = fido.Fido2Client(
            self._device(fido), fido.DefaultClientDataCollector(self._origin), self._interaction(fido)
        )
        options = fido.PublicKeyCredentialRequestOptions(
            challenge=sha256(pae(APPROVAL, statement)),
            rp_id=self._rp_id,
            allow_credentials=[
                fido.PublicKeyCredentialDescriptor(type="public-key", id=credential) for credential in self._credentials
            ],
            user_verification="required",
        )
        try:
            answer = client.get_assertion(options).get_response(0)
        except (fido.ClientError, fido.CtapError, OSError) as error:
            raise SignerError(f"the security key did not sign ({error})") from None
        return PasskeyProof(
            credential_id=bytes(answer.raw_id),
            authenticator_data=bytes(answer.response.authenticator_data),
            client_data=bytes(answer.response.client_data),
            signature=bytes(answer.response.signature),
        )

    def _device(self, fido: Any) -> Any:
        try:
            device = next(iter(fido.CtapHidDevice.list_devices()), None)
        except OSError as error:
            raise SignerError(f"security keys cannot be looked for ({error.strerror or error})") from None
        if device is None:
            raise SignerError("no security key is plugged in (or this user may not open it)")
        return device

    def _interaction(self, fido: Any) -> Any:
        tell, ask_pin = self._tell, self._ask_pin

        class Interaction(fido.UserInteraction):  # type: ignore[misc]
            def prompt_up(self) -> None:
                tell("Touch the security key.")

            def request_pin(self, _permissions: Any, _rp_id: str | None) -> str | None:
                return ask_pin() or None

            def request_uv(self, _permissions: Any, _rp_id: str | None) -> bool:
                tell("Confirm on the security key.")
                return True

        return Interaction()


def passkeys_of(policy: Policy, principal: str) -> tuple[str, list[str], list[bytes]]:
    """(rp id, origins, credential ids) of somebody. Errors: SignerError when the policy has none."""
    rules = policy.document.passkeys
    found = [
        bytes.fromhex(passkey.credential_id)
        for entry in policy.document.principals
        if entry.id == principal
        for passkey in entry.passkeys
    ]
    if rules == "none" or not found:
        raise SignerError(f"the policy has no passkey of {principal}")
    return rules.rp_id, list(rules.origins), found


def _library() -> Any:
    """The parts of `fido2` that are used, as one object."""
    from types import SimpleNamespace

    try:
        from fido2.client import ClientError, DefaultClientDataCollector, Fido2Client, UserInteraction
        from fido2.ctap import CtapError
        from fido2.hid import CtapHidDevice
        from fido2.webauthn import PublicKeyCredentialDescriptor, PublicKeyCredentialRequestOptions
    except ImportError:
        raise SignerError("security keys need the package fido2: pip install 'adytum[fido2]'") from None
    return SimpleNamespace(
        ClientError=ClientError,
        CtapError=CtapError,
        CtapHidDevice=CtapHidDevice,
        DefaultClientDataCollector=DefaultClientDataCollector,
        Fido2Client=Fido2Client,
        PublicKeyCredentialDescriptor=PublicKeyCredentialDescriptor,
        PublicKeyCredentialRequestOptions=PublicKeyCredentialRequestOptions,
        UserInteraction=UserInteraction,
    )
