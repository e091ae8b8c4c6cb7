"""The request as a story, one file a step: admit -> recall (and load) -> carry -> audit -> answer; `story` tells it.

Around it: `gate` (does the enclave prove itself?), `supervisor` (is it configured and does it have the policies?),
`http` (the lean routes), `routes` (the cold ones), `metrics`.
"""
