"""Files of ours that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adytum.cli.secret_files import sync_folder, write_whole


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "a.recovery", list[int]()
    monkeypatch.setattr(os, "fsync", synced.append)
    write_whole(path, b"one")
    assert synced  # on the disk before it has its name
    sync_folder(tmp_path)
    assert len(synced) == 2

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_whole(path, b"another")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
