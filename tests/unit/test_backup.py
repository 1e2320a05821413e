"""Backups: what is copied is whole, whatever the shard does meanwhile."""

import asyncio
from pathlib import Path

import pytest

from aggregator import backup
from aggregator.rules import Rules
from aggregator.shard import Shard
from persistence.directory import DataDirectory
from tests.comparison import facts_of_state
from tests.shards import Clock, crash, send, settings_of, state_of, watch


def test_records_that_come_while_files_are_linked_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin segments that are not linked any more; SYNCED must not speak of them."""
    data, target = tmp_path / "data", tmp_path / "copy"
    directory = DataDirectory.open(data, Rules().as_dict())
    with asyncio.Runner() as run:
        shard = Shard(settings_of(data, segment_bytes=100), Clock())
        run.run(send(shard, 1, watch("u", "m", 0, 20)))
        before = facts_of_state(state_of(shard))
        ignore = backup._NOT_COPIED

        def listed(folder: str, names: list[str]) -> set[str]:
            """Is called when a folder was listed, before its files are taken."""
            if Path(folder) == data / "shard-0000" / "log":
                for sequence in (2, 3):
                    run.run(send(shard, sequence, watch("v", "m", 0, 90)))
            return ignore(folder, names)

        monkeypatch.setattr(backup, "_NOT_COPIED", listed)
        backup.backup(data, target, lambda *_: None)
        assert shard._applied_sequence == 3
        crash(shard)
    directory.close()
    copied = Shard(settings_of(target, segment_bytes=100), Clock())
    assert facts_of_state(state_of(copied)) == before
    crash(copied)
