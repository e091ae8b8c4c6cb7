"""Releases: images that may run, and how one takes over from another without a failed request.

    errors         what can be refused, with a code and a sentence
    release        one release as data, and what may follow which state
    measurements   a release out of the files that a build leaves
    images         what the gates expect now: settings and releases in one immutable picture
    store          the tables `releases` and `enclave_reports`
    rollover       plan, add, promote, retire
    key_policy     the KMS key policy of an overlap, and its difference from the one in force
    watcher        keeps a service's pool at what the database says, and reports its enclaves there
    canary         proves that KMS refuses an unattested and a retired caller
    sigv4, kms_probe   the one KMS call that the host makes
    wiring         the canary out of the settings

Left out: putting the key policy. The host has no right to; a person does, as the break-glass role.
"""
