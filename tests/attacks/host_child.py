"""A whole host in a process of its own: KMS stand-in, database, service, enclave (a grandchild). For memory scans.

Reads one line of JSON, {"directory", "principals", "rules"}, puts that policy in force, and prints one line: what a
client needs. Then each line it reads is a command: "plant HEX" keeps these bytes in memory, "stop" (or the end) stops.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from adytum_sim.host import running_host
from adytum_sim.stack import running_stack

PLANTED: list[bytes] = []


async def run(told: dict[str, Any]) -> None:
    directory = Path(told["directory"])
    loop = asyncio.get_running_loop()
    async with running_stack(directory / "stack") as stack, running_host(stack, directory, durable=False) as host:
        document = stack.policy(told["principals"], told["rules"], version=5)
        await stack.put_policy(document)
        print(
            json.dumps({"url": host.service.base_url, "pcrs": stack.allowed_pcrs, "enclave": stack.process.pid}),
            flush=True,
        )
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            word, _, rest = line.strip().partition(" ")
            if word != "plant":
                return
            PLANTED.append(bytes.fromhex(rest))
            print("planted", flush=True)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.stdin.readline())))
