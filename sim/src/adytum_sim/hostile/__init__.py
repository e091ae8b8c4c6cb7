"""The hostile host: everything a host can do to the messages that it carries, systematically and as data.

`surface` finds every field of every message and stored record by introspection; `manipulations` says what can be
done to one; `declared` says for each which step stops it and with which codes, and what is not declared fails;
`relay` and `tls_tap` sit between honest parties and carry one manipulation out; `ledger` keeps what really left the
enclave and judges it afterwards, by what `rules` allows. `tests/attacks/hostile` drives it all, and
`docs/reference/attacks.md` is printed from it.

    async with open_site(directory) as site:
        site.relay.on_request = rewriting(lambda payload: edit(payload, (MSGPACK, "record", "header"), change))
        reply = await site.send("sign")    # the honest client, through the relay
        await site.unharmed()
        await site.audit()

Left out: what needs the enclave's memory (tests/attacks/test_memory.py) and HTTP (the host service's own tests).
"""
