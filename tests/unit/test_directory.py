"""Which data directories are opened."""

from pathlib import Path

import pytest

from persistence import directory
from persistence.directory import DataDirectory
from persistence.errors import DamagedError, NewerFormatError


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
