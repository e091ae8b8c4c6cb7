"""`KmsPolicyError`: the one error of everything that reads or writes policies here."""

from __future__ import annotations


class KmsPolicyError(Exception):
    """`code` is stable; `sentence` is for a person and names the element, never more of the policy than that."""

    code = "KMS_POLICY_INVALID"

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
