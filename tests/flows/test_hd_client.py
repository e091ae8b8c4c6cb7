"""Seeds through the service, as its clients use them: the SDK, and the `adytum` command."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from coins import Coins, require_valid
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from eth_account import Account
from outsider import open_record
from wallet import TRANSFER, allow_everything, unsigned

from adytum.cli import main
from adytum.client.errors import UntrustedError
from adytum.client.signers import KeySigner
from adytum_sim.host import running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import running_stack
from adytum_wire.requests import EthereumTransaction
from adytum_wire.types import Algorithm, SigningScheme

ETHEREUM = "m/44'/60'/0'/0/0"


async def test_seeds_through_the_service(short_directory: Path) -> None:
    private = Ed25519PrivateKey.generate()
    alice = Person("alice", KeySigner(private))
    short_directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
    (short_directory / "h").mkdir(mode=0o711)
    async with (
        running_stack(short_directory / "s", configure=False) as stack,
        running_host(stack, short_directory / "h", durable=False) as host,
        host.client(alice) as client,
    ):
        operations = ["generate_seed", "derive_key", "sign"]
        rules = [allow_everything(operations=operations)]
        await client.put_policy(signed_policy(stack.policy([alice.as_principal("signer")], rules), *stack.admins))
        seed = (await client.generate_seed(labels=["treasury"])).result
        assert (seed.kind, seed.public_key) == ("hd-seed", "")

        derived = (await client.derive(seed.key_id, ETHEREUM, Algorithm.SECP256K1)).result
        public_key = bytes.fromhex(derived.public_key)
        content = EthereumTransaction(unsigned(TRANSFER))
        fields: dict[str, Any] = {"scheme": SigningScheme.ECDSA_SECP256K1, "content": content, "path": ETHEREUM}
        signed = (await client.sign(seed.key_id, public_key=public_key, **fields)).result
        assert Account.recover_transaction(signed.encoded["raw_transaction"]) == derived.addresses["ethereum"]
        with pytest.raises(UntrustedError) as caught:  # the caller derived another path before
            await client.sign(seed.key_id, public_key=public_key, **(fields | {"path": "m/44'/60'/0'/0/1"}))
        assert caught.value.field == "result.public_key"

        [record] = await host.records()
        coins = Coins(open_record(stack, record)[1], "p2wpkh")
        spend = coins.spend([90_000, 80_000], 100_000, 1_500)
        paid = (await client.sign_psbt(seed.key_id, spend.psbt, path=coins.path)).result
        require_valid(bytes.fromhex(paid.encoded["raw_transaction"]), spend.spent)

        key_file = short_directory / "alice.pem"
        key_file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        seen = ["--pcr", stack.allowed_pcrs[0], "--roots", str(short_directory / "h" / "roots.pem")]
        options = ["--url", host.service.base_url, "--tenant", "acme", "--key", str(key_file), *seen, "--json"]

        async def adytum(*arguments: str) -> Any:
            done = await asyncio.to_thread(CliRunner().invoke, main, [*arguments, *options])
            assert done.exit_code == 0, done.output
            return json.loads(done.output)["result"]

        assert (await adytum("keys", "seed", "--label", "treasury"))["kind"] == "hd-seed"
        assert (await adytum("keys", "derive", seed.key_id, ETHEREUM))["addresses"] == derived.addresses
        solana = await adytum("keys", "derive", seed.key_id, "m/44'/501'/0'/0'", "--algorithm", "ed25519")
        assert list(solana["addresses"]) == ["solana"]
        again = await adytum("sign", "ethereum", seed.key_id, unsigned(TRANSFER), "--path", ETHEREUM)
        assert again["encoded"] == signed.encoded
        text = base64.b64encode(spend.psbt).decode()
        again = await adytum("sign", "bitcoin", seed.key_id, text, "--path", coins.path)
        assert again["encoded"] == paid.encoded
