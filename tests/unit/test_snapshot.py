"""Snapshots and the data directory: whole or refused, never half."""

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from persistence import snapshot
from persistence.directory import DataDirectory, Manifest, read_manifest
from persistence.errors import (
    DamagedError,
    LockedError,
    NewerFormatError,
    SettingsMismatchError,
)
from persistence.files import FolderLock

TABLES = {
    "numbers": pa.table({"n": [1, 2, 3]}),
    "empty": pa.table({"s": pa.array([], pa.string())}),
}
OWNER = "an id/1/0"
RULES: dict[str, Any] = {"max_gap_ms": 60_000}


def write(folder: Path, sequence: int) -> None:
    snapshot.write(folder, OWNER, sequence, TABLES, {"sequence": sequence})


def test_a_snapshot_comes_back(tmp_path: Path) -> None:
    assert snapshot.load_newest(tmp_path, OWNER) == (None, [])
    write(tmp_path, 7)
    loaded, damage = snapshot.load_newest(tmp_path, OWNER)
    assert loaded is not None
    assert damage == []
    assert (loaded.sequence, loaded.extra) == (7, {"sequence": 7})
    assert loaded.tables == TABLES


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    assert snapshot.prune(tmp_path / "absent") == snapshot.prune(tmp_path) == 0
    kept = []
    for sequence in (3, 10, 200):
        write(tmp_path, sequence)
        kept.append(snapshot.prune(tmp_path))
    assert kept == [3, 3, 10]
    assert names_in(tmp_path) == [f"{10:019}", f"{200:019}"]


def test_one_that_stands_alone_has_nothing_beside_it(tmp_path: Path) -> None:
    for sequence in (3, 10, 200):
        write(tmp_path, sequence)
    for left in (f"{10:019}.broken", f"{300:019}.tmp"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "numbers.parquet").write_bytes(b"erased")
    assert snapshot.prune(tmp_path) == 10  # drafts go in any case
    assert names_in(tmp_path) == [f"{10:019}", f"{10:019}.broken", f"{200:019}"]
    assert snapshot.prune(tmp_path, alone=True) == 200
    assert names_in(tmp_path) == [f"{200:019}"]


def test_one_of_the_same_record_is_not_written_again(tmp_path: Path) -> None:
    write(tmp_path, 3)
    before = [path.stat().st_ino for path in sorted(tmp_path.rglob("*"))]
    snapshot.write(tmp_path, OWNER, 3, {}, {})
    assert [path.stat().st_ino for path in sorted(tmp_path.rglob("*"))] == before


@pytest.mark.parametrize("name", ["fsync", "rename", "mkdir", "replace"])
def test_a_full_disk_keeps_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(tmp_path, 3)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, 10)
    assert names_in(tmp_path) == [f"{3:019}"]
    write(tmp_path, 10)
    assert names_in(tmp_path) == [f"{3:019}", f"{10:019}"]


def test_a_draft_is_not_a_snapshot(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / f"{9:019}.tmp").mkdir()
    loaded, _ = snapshot.load_newest(tmp_path, OWNER)
    assert loaded is not None
    assert loaded.sequence == 3
    write(tmp_path, 10)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("victim", ["numbers.parquet", "empty.parquet", "MANIFEST.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove"])
def test_a_damaged_one_falls_back_or_is_refused(tmp_path: Path, victim: str, harm: str) -> None:
    write(tmp_path, 3)
    write(tmp_path, 10)
    for sequence in (10, 3):
        path = tmp_path / f"{sequence:019}" / victim
        content = path.read_bytes()
        match harm:
            case "flip":
                middle = len(content) // 2
                path.write_bytes(
                    content[:middle] + bytes([content[middle] ^ 128]) + content[middle + 1 :]
                )
            case "cut":
                path.write_bytes(content[:-1])
            case "empty":
                path.write_bytes(b"")
            case "remove":
                path.unlink()
        if sequence == 10:
            loaded, damage = snapshot.load_newest(tmp_path, OWNER)
            assert loaded is not None
            assert loaded.sequence == 3
            assert [error.path.parent.name for error in damage] == [f"{10:019}"]
    loaded, damage = snapshot.load_newest(tmp_path, OWNER)
    assert loaded is None
    assert len(damage) == 2


def test_a_damaged_one_set_aside_does_not_push_out_a_whole_one(tmp_path: Path) -> None:
    write(tmp_path, 3)
    write(tmp_path, 10)
    (tmp_path / f"{10:019}" / "numbers.parquet").write_bytes(b"")
    _, damage = snapshot.load_newest(tmp_path, OWNER)
    snapshot.set_aside(tmp_path, damage)
    write(tmp_path, 10)
    assert snapshot.prune(tmp_path) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{3:019}",
        f"{10:019}",
        f"{10:019}.broken",
    ]
    assert snapshot.load_newest(tmp_path, OWNER)[1] == []
    (tmp_path / f"{10:019}" / "numbers.parquet").write_bytes(b"")
    snapshot.set_aside(tmp_path, snapshot.load_newest(tmp_path, OWNER)[1])
    assert snapshot.load_newest(tmp_path, OWNER)[1] == []


def test_a_snapshot_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 3)
    manifest = tmp_path / f"{3:019}" / "MANIFEST.json"
    newer = f'"format": {snapshot.FORMAT + 1}'
    manifest.write_text(manifest.read_text().replace(f'"format": {snapshot.FORMAT}', newer))
    with pytest.raises(NewerFormatError):
        snapshot.load_newest(tmp_path, OWNER)


def test_a_snapshot_of_an_older_format_counts_as_none(tmp_path: Path) -> None:
    write(tmp_path, 3)
    write(tmp_path, 10)
    for sequence, expected in ((10, 3), (3, None)):
        manifest = tmp_path / f"{sequence:019}" / "MANIFEST.json"
        older = f'"format": {snapshot.FORMAT - 1}'
        manifest.write_text(manifest.read_text().replace(f'"format": {snapshot.FORMAT}', older))
        loaded, damage = snapshot.load_newest(tmp_path, OWNER)
        assert (loaded and loaded.sequence) == expected
        assert str(manifest) in str(damage[-1])
        assert f"format {snapshot.FORMAT - 1} is not read any more" in str(damage[-1])


def test_a_directory_remembers_what_it_was_made_with(tmp_path: Path) -> None:
    made = DataDirectory.open(tmp_path / "data", RULES, 3)
    made.close()
    again = DataDirectory.open(tmp_path / "data", RULES)
    assert again.manifest == made.manifest
    assert again.manifest.shards == 3


def test_other_rules_and_other_shards_are_refused(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path, RULES, 3).close()
    with pytest.raises(SettingsMismatchError, match="max_gap_ms is 60000, asked for 5"):
        DataDirectory.open(tmp_path, {"max_gap_ms": 5})
    DataDirectory.open(tmp_path, RULES, 3).close()


def test_two_processes_cannot_share_a_directory(tmp_path: Path) -> None:
    first = DataDirectory.open(tmp_path, RULES)
    with pytest.raises(LockedError, match="another --data-dir"):
        DataDirectory.open(tmp_path, RULES)
    first.close()
    DataDirectory.open(tmp_path, RULES).close()


def test_a_lock_waits_as_long_as_told(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    with pytest.raises(LockedError):
        FolderLock(tmp_path, wait_s=0.1)
    held.release()
    FolderLock(tmp_path).release()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"format": 1}', b"[" * 200_000, b'{"format": 9e999}']
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    DataDirectory.open(tmp_path, RULES).close()
    (tmp_path / "MANIFEST.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"MANIFEST\.json"):
        DataDirectory.open(tmp_path, RULES)


def test_a_lost_manifest_is_not_a_fresh_start(tmp_path: Path) -> None:
    made = DataDirectory.open(tmp_path, RULES)
    (made.shard_folder(0) / "EPOCH").touch()
    made.close()
    (tmp_path / "MANIFEST.json").unlink()
    with pytest.raises(DamagedError, match="missing"):
        DataDirectory.open(tmp_path, RULES)
    (tmp_path / "MANIFEST.json").write_text('{"format": 99}')
    with pytest.raises(NewerFormatError):
        DataDirectory.open(tmp_path, RULES)


def test_a_directory_that_was_being_made_is_made_again(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path, RULES, 2).close()
    (tmp_path / "MANIFEST.json").unlink()
    DataDirectory.open(tmp_path, RULES, 2).close()


def test_a_lost_shard_is_not_a_fresh_start(tmp_path: Path) -> None:
    made = DataDirectory.open(tmp_path, RULES, 3)
    made.close()
    made.shard_folder(2).rmdir()
    with pytest.raises(DamagedError, match=r"shard-0002 .* is missing"):
        DataDirectory.open(tmp_path, RULES)


def test_a_manifest_says_nothing_that_was_not_written(tmp_path: Path) -> None:
    """A flipped digit would be another number of shards, or generation."""
    made = DataDirectory.open(tmp_path, RULES, 2)
    made.close()
    path = tmp_path / "MANIFEST.json"
    whole = path.read_bytes()
    for offset in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[offset] ^= 1 << bit
            path.write_bytes(flipped)
            assert _is_or_refuses(tmp_path, made.manifest)


def _is_or_refuses(folder: Path, manifest: Manifest) -> bool:
    try:
        return read_manifest(folder) == manifest  # a blank for another, say
    except (DamagedError, NewerFormatError) as refusal:
        return str(folder / "MANIFEST.json") in str(refusal)


def test_a_snapshot_of_another_shard_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 3)
    loaded, damage = snapshot.load_newest(tmp_path, "an id/1/1")
    assert loaded is None
    assert OWNER in str(damage[0])
