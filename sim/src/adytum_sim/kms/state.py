"""Everything the stand-in remembers: keys, aliases, credentials, roles. In memory, or in one file of mode 0600.

The file holds secrets of a development stand-in in the clear. It is written whole and renamed into place.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adytum_sim.kms.caller import Caller, Credentials
from adytum_sim.kms.keys import Key

DEFAULT_ACCOUNT = "111122223333"
DEFAULT_REGION = "us-east-1"


@dataclass(slots=True, kw_only=True)
class Role:
    """What AssumeRole can hand out. `policies` are parsed identity policies."""

    name: str
    role_id: str
    policies: tuple[dict[str, Any], ...]


@dataclass(slots=True, kw_only=True)
class State:
    """One account in one region. `path` is where `save` writes; None keeps all in memory."""

    account: str = DEFAULT_ACCOUNT
    region: str = DEFAULT_REGION
    path: Path | None = None
    keys: dict[str, Key] = field(default_factory=dict)
    aliases: dict[str, tuple[str, int]] = field(default_factory=dict)  # alias/name to (key id, created ms)
    credentials: dict[str, Credentials] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)

    def add(self, credentials: Credentials) -> Credentials:
        self.credentials[credentials.access_key_id] = credentials
        return credentials

    def key_arn(self, key_id: str) -> str:
        return f"arn:aws:kms:{self.region}:{self.account}:key/{key_id}"

    def alias_arn(self, alias: str) -> str:
        return f"arn:aws:kms:{self.region}:{self.account}:{alias}"

    def aliases_of(self, key_id: str) -> list[str]:
        return sorted(name for name, (target, _) in self.aliases.items() if target == key_id)

    def save(self) -> None:
        """Write to `path`, if there is one. Errors: OSError; the old file then stays."""
        if self.path is None:
            return
        document = {
            "version": 1,
            "account": self.account,
            "region": self.region,
            "keys": [
                {**asdict(key), "backing": [base64.b64encode(b).decode() for b in key.backing]}
                for key in self.keys.values()
            ],
            "aliases": self.aliases,
            "credentials": [asdict(item) for item in self.credentials.values()],
            "roles": [asdict(role) for role in self.roles.values()],
        }
        temporary = self.path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read what `save` wrote. Errors: OSError, ValueError or KeyError for a file of another form."""
        document = json.loads(path.read_text())
        if document["version"] != 1:
            raise ValueError("the state file has another version")
        state = cls(account=document["account"], region=document["region"], path=path)
        for item in document["keys"]:
            backing = [base64.b64decode(b) for b in item.pop("backing")]
            rotations = [(at, kind) for at, kind in item.pop("rotations")]
            key = Key(**item, backing=backing, rotations=rotations)
            state.keys[key.key_id] = key
        state.aliases = {name: (target, created) for name, (target, created) in document["aliases"].items()}
        for item in document["credentials"]:
            caller = item.pop("caller")
            policies = tuple(caller.pop("identity_policies"))
            state.add(Credentials(**item, caller=Caller(**caller, identity_policies=policies)))
        for item in document["roles"]:
            policies = tuple(item.pop("policies"))
            state.roles[item["name"]] = Role(**item, policies=policies)
        return state
