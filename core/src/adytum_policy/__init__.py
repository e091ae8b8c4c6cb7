"""Who may use a key for what: the policy document, the decision, and the decoding of what is to be signed.

Pure: no I/O, no clock, no randomness. The enclave decides with it; the host previews with the same code
(spec/policy.md, "P-n" in the comments below names its rules).

    document   parse_policy, open_policy, find_principal: from signed bytes to a `Policy`
    decide     decide: from a subject and a policy to a `Decision` that names what each rule said
    content    decode_content: from the bytes to sign to facts, a readable summary and the digest
"""
