"""A shard's process ends with its server, without anyone's help."""

import os
import subprocess
import sys
from pathlib import Path

from aggregator import lifeline

_SHARD = """
import sys, threading
from pathlib import Path
from aggregator import lifeline
lifeline.hold(Path(sys.argv[1]))
print("lives", flush=True)
threading.Event().wait()
"""


def launch(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SHARD, folder], stdout=subprocess.PIPE, text=True
    )


def test_it_lives_as_long_as_the_server(tmp_path: Path) -> None:
    descriptor = lifeline.create(tmp_path)
    shards = [launch(tmp_path), launch(tmp_path)]
    for shard in shards:
        assert shard.stdout is not None
        assert shard.stdout.readline() == "lives\n"
        assert shard.poll() is None
    os.close(descriptor)
    for shard in shards:
        assert shard.wait(20) == lifeline.EXIT_ORPHANED
        assert shard.stdout is not None
        shard.stdout.close()


def test_one_that_comes_after_the_server_ends_at_once(tmp_path: Path) -> None:
    os.close(lifeline.create(tmp_path))
    for folder in (tmp_path, tmp_path / "gone"):
        with launch(folder) as late:
            assert late.wait(20) == lifeline.EXIT_ORPHANED
