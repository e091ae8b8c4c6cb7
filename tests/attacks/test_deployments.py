"""Staging and production with the same people: what was signed for one, carried to the other (M-10)."""

from __future__ import annotations

import pytest
from wallet import Wallet, refused

from adytum_sim.people import request_body, signed_policy
from adytum_wire.errors import AdytumError, Code


async def test_what_staging_signed_is_not_taken_in_production(wallet: Wallet) -> None:
    """Same administrators and clients; what tells the two apart is the tenant's id. `acme` is production here."""
    lax = wallet.document | {"tenant": "acme-staging", "version": 99}
    envelope = signed_policy(lax, *wallet.stack.admins)
    before = await wallet.state()
    for put_as, code in (("acme", Code.POLICY_INVALID), ("acme-staging", Code.TENANT_UNKNOWN)):
        with pytest.raises(AdytumError) as caught:
            await wallet.stack.client.put_policy(put_as, envelope)
        assert caught.value.code is code
    now = wallet.stack.now_ms()
    body = request_body("acme-staging", "generate_key", now, algorithm="ed25519", labels=["treasury"])
    reply = await wallet.stack.client.execute(body, wallet.alice.stamp(body))
    refused(reply, Code.TENANT_UNKNOWN, with_receipt=False)
    assert await wallet.state() == before
    await wallet.assert_still_signs()
