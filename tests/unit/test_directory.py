"""Which data directories are opened."""

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from aggregator.rules import Rules
from persistence import directory
from persistence.directory import DataDirectory
from persistence.errors import DamagedError, NewerFormatError, SettingsMismatchError
from tests.command import command


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (-1, DamagedError, f"format {directory.FORMAT - 1} is not read any more"),
        (1, NewerFormatError, f"has format {directory.FORMAT + 1}"),
    ],
)
def test_other_formats_are_refused_and_left_alone(
    tmp_path: Path, change: int, error: type[Exception], reason: str
) -> None:
    """Users would be looked for in shards where they are not."""
    DataDirectory.open(tmp_path, {}, shards=2).close()
    manifest = tmp_path / "MANIFEST.json"
    other = manifest.read_text().replace(
        f'"format": {directory.FORMAT}', f'"format": {directory.FORMAT + change}'
    )
    manifest.write_text(other)
    with pytest.raises(error, match=reason):
        DataDirectory.open(tmp_path, {})
    with pytest.raises(error, match=reason):
        directory.read_manifest(tmp_path)
    assert manifest.read_text() == other


def test_a_manifest_of_a_generation_that_was_replaced_is_refused(tmp_path: Path) -> None:
    """SQL over it found nothing, and said so as if it were true."""
    opened = DataDirectory.open(tmp_path, {}, shards=2)
    manifest = tmp_path / "MANIFEST.json"
    before = manifest.read_bytes()
    following = msgspec.structs.replace(opened.manifest, generation=2)
    root = opened.prepare(following)
    for shard in range(following.shards):
        directory.shard_folder(root, shard).mkdir()
    opened.switch(following)
    opened.close()
    assert directory.read_manifest(tmp_path) == following
    manifest.write_bytes(before)
    with pytest.raises(DamagedError, match="shard-0000"):
        directory.read_manifest(tmp_path)
    with pytest.raises(DamagedError, match="shard-0000"):
        DataDirectory.open(tmp_path, {})
    assert following.root(tmp_path).exists()


def test_with_other_rules_the_command_that_is_named_makes_them_the_datas(tmp_path: Path) -> None:
    """Without flags, a rebuild kept the rules as they were."""
    data, wanted = tmp_path / "some data", Rules(max_gap_ms=30_000, complete_ratio=0.5).as_dict()
    DataDirectory.open(data, Rules().as_dict()).close()
    with pytest.raises(SettingsMismatchError) as refusal:
        DataDirectory.open(data, wanted)
    named = re.findall("`(playhead rebuild .*)`", str(refusal.value))
    _, *arguments = shlex.split(named[0])
    assert arguments == [
        *("rebuild", "--max-gap-ms", "30000", "--complete-ratio", "0.5"),
        *("--data-dir", str(data)),
    ]
    ended = command(*arguments)
    assert ended.returncode == 0, ended.stderr
    DataDirectory.open(data, wanted).close()
