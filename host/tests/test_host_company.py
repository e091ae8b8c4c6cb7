"""The answers of a batch wait for each other, and for nobody who does not come."""

from __future__ import annotations

from adytum.service.company import HOLD_S, Company


def test_all_wait_but_the_last_and_nobody_counts_twice() -> None:
    released: list[None] = []
    company = Company(3, release=lambda: released.append(None))
    first, second, third = company.place(), company.place(), company.place()
    assert first.here() == HOLD_S
    first.gone()
    assert first.here() == 0.0
    assert second.here() == HOLD_S
    assert third.here() == 0.0
    third.gone()
    assert released == []


def test_who_ends_without_an_answer_lets_the_others_go() -> None:
    released: list[None] = []
    company = Company(2, release=lambda: released.append(None))
    first, second = company.place(), company.place()
    assert first.here() == HOLD_S
    second.gone()
    second.gone()
    assert released == [None]
    assert second.here() == 0.0
