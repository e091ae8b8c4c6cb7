"""Merkle trees over request digests (RFC 9162, 2.1): one approval for a batch, and the proof that a request is in it.

Who asks for approval builds (`root_of`, `paths_of`); who verifies computes the root again from one request and its path
(`root_through`). Leaves and inner nodes hash under different prefixes, so that no node passes for a request.

    digests = [sha256(body) for body in bodies]
    subject = BatchSubject(root=root_of(digests).hex(), size=len(digests))
    Approval(statement=..., proof=..., index=3, path=paths_of(digests)[3])
"""

from __future__ import annotations

from collections.abc import Sequence

from adytum_wire.approvals import leaf_hash, node_hash
from adytum_wire.types import Digest


def root_of(digests: Sequence[bytes]) -> Digest:
    """The root over `digests` (32 bytes each) in their order. Errors: ValueError without any."""
    return _levels(digests)[-1][0]


def paths_of(digests: Sequence[bytes]) -> list[tuple[Digest, ...]]:
    """The inclusion path of each. Errors: ValueError without any."""
    levels = _levels(digests)
    return [_path(levels, index) for index in range(len(digests))]


def path_of(digests: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """The inclusion path (RFC 9162, 2.1.3.1) of the digest at `index`, from the leaf upwards. Errors: ValueError."""
    if not 0 <= index < len(digests):
        raise ValueError("no such leaf")
    return _path(_levels(digests), index)


def root_through(digest: bytes, index: int, size: int, path: Sequence[bytes]) -> Digest | None:
    """RFC 9162, 2.1.3.2: the root of the tree of `size` leaves in which `digest` is leaf `index` and `path` its proof.
    None when a path of that length cannot belong to that place. The caller compares the root."""
    if index >= size:  # 1.
        return None
    place, last, root = index, size - 1, leaf_hash(digest)  # 2., 3.
    for node in path:  # 4.
        if last == 0:  # a.
            return None
        if place & 1 or place == last:  # b.
            root = node_hash(node, root)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            root = node_hash(root, node)
        place >>= 1  # c.
        last >>= 1
    return root if last == 0 else None  # 5.


def _levels(digests: Sequence[bytes]) -> list[list[Digest]]:
    """All nodes, leaves first. A node without a right neighbour moves up as it is: that is RFC 9162's tree, whose left
    part is always the largest full one."""
    if not digests:
        raise ValueError("a batch has at least one request")
    levels = [[leaf_hash(digest) for digest in digests]]
    while len(below := levels[-1]) > 1:
        above = [node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels


def _path(levels: list[list[Digest]], index: int) -> tuple[Digest, ...]:
    path = []
    for level in levels[:-1]:
        neighbour = index ^ 1
        if neighbour < len(level):
            path.append(level[neighbour])
        index >>= 1
    return tuple(path)
