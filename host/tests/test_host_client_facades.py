"""The two clients say the same with the same words: whoever knows one knows the other."""

from __future__ import annotations

import inspect

import pytest

from adytum.client import Adytum, AsyncAdytum
from adytum.client.facades import Approvals, AsyncApprovals, AsyncRequests, Requests

PAIRS = [(AsyncAdytum, Adytum), (AsyncRequests, Requests), (AsyncApprovals, Approvals)]
_ENDS = {"__aenter__": "__enter__", "__aexit__": "__exit__"}


def calls(kind: type) -> dict[str, tuple[str, str | None]]:
    """Public methods: name -> (signature without what asyncio makes different, docstring)."""
    found = {}
    for name, method in vars(kind).items():
        if inspect.isfunction(method) and (not name.startswith("_") or name in (*_ENDS, *_ENDS.values(), "__init__")):
            signature = str(inspect.signature(method)).replace("Async", "")
            found[_ENDS.get(name, name)] = (" ".join(signature.split()), method.__doc__)
    return found


@pytest.mark.parametrize(("later", "now"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_clients_have_the_same_calls_arguments_and_words(later: type, now: type) -> None:
    ours, theirs = calls(later), calls(now)
    assert len(ours) >= 3
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name][0] == theirs[name][0], name
        assert theirs[name][1] in (ours[name][1], None), "None: the class says which one to read"


@pytest.mark.parametrize(("later", "now"), PAIRS, ids=lambda kind: kind.__name__)
def test_one_of_them_waits_and_the_other_does_not(later: type, now: type) -> None:
    for name in calls(later).keys() - {"__init__", "__enter__", "__exit__"}:
        method = getattr(later, name)
        is_later = inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
        assert is_later or name == "close_session", name
        assert not inspect.iscoroutinefunction(getattr(now, name))
