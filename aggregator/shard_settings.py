"""What a shard is told when it is placed."""

from dataclasses import dataclass
from pathlib import Path

from aggregator.rules import Rules


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """Where a shard keeps its data, and when it makes checkpoints and new log segments."""

    number: int
    folder: Path
    #: Names the shard in its files: `Manifest.owner`.
    owner: str
    rules: Rules
    hours_kept_days: int
    #: So many bytes of log after a snapshot, or as many as that has, make another due.
    snapshot_log_bytes: int
    snapshot_interval_s: float
    segment_bytes: int
    #: How long an erase may wait for others, to be made final together with them.
    erase_delay_s: float
