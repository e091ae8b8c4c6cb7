"""Batches, against RFC 9162's definition written out naively, and against Certificate Transparency's known roots."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.approvals import path_of, paths_of, root_of, root_through

# The leaves and roots that Certificate Transparency's implementations test with (RFC 6962, SHA-256).
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# CT's published inclusion proof of leaf 0 of 8
CT_PATH_0_OF_8 = [
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
]


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word by word: k is the largest power of two smaller than n."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def test_the_roots_are_certificate_transparencys() -> None:
    for size, root in enumerate(CT_ROOTS, 1):
        assert root_of(CT_LEAVES[:size]).hex() == root
        assert mth(CT_LEAVES[:size]).hex() == root
    assert [node.hex() for node in path_of(CT_LEAVES, 0)] == CT_PATH_0_OF_8


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100])
def test_every_leaf_of_every_size_proves_its_place_and_no_other(size: int) -> None:
    leaves = [hashlib.sha256(bytes([number])).digest() for number in range(size)]
    root, paths = root_of(leaves), paths_of(leaves)
    assert root == mth(leaves)
    for index, leaf in enumerate(leaves):
        assert list(paths[index]) == path(index, leaves) == list(path_of(leaves, index))
        assert root_through(leaf, index, size, paths[index]) == root
        for other in (index - 1, index + 1, size):
            if other >= 0:
                assert root_through(leaf, other, size, paths[index]) != root
        assert root_through(leaf, index, size, (*paths[index], root)) is None
        if paths[index]:
            assert root_through(leaf, index, size, paths[index][:-1]) is None


def test_an_inner_node_is_no_leaf() -> None:
    """Second preimages: the concatenation of two hashes is not accepted as a request."""
    leaves = [bytes([number]) * 32 for number in range(4)]
    root = root_of(leaves)
    left, right = (hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves[:2])
    assert root_through(left + right, 0, 2, path_of(leaves, 0)[1:]) != root


def test_there_is_no_batch_of_nothing_and_no_leaf_outside() -> None:
    for call in (lambda: root_of([]), lambda: paths_of([]), lambda: path_of([b"a"], 1), lambda: path_of([b"a"], -1)):
        with pytest.raises(ValueError, match=r"leaf|batch"):
            call()


@settings(max_examples=200, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**32),
    st.integers(1, 2**32),
    st.lists(st.binary(min_size=32, max_size=32), max_size=40),
)
def test_any_input_gives_a_root_or_none(leaf: bytes, index: int, size: int, nodes: list[bytes]) -> None:
    found = root_through(leaf, index, size, nodes)
    assert found is None or len(found) == 32
