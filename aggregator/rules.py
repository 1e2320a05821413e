"""The settings of watch time, and the arithmetic that all its forms share."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from kernels.rows import COMPLETE_TAIL_MS, HOUR_MS, PARTS

#: How long after its last event a stream still counts as being watched.
WATCHING_NOW_MS = 60_000
#: Below this share of the movie, resuming starts over.
RESUME_RATIO = 0.05
DAY_HOURS = 24
#: For so many days hourly sums are kept by default; more than the longest window of a top list.
HOURS_KEPT_DAYS = 35


@dataclass(frozen=True, slots=True)
class Rules:
    """What the totals of a data directory are made with."""

    max_gap_ms: int = 60_000
    idle_ms: int = 1_800_000
    complete_ratio: float = 0.9
    credit: Literal["position", "duration"] = "position"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def complete_parts(self) -> int:
        """`complete_ratio` in millionths, so that comparing it stays in integers."""
        return round(self.complete_ratio * PARTS)

    @property
    def resume_parts(self) -> int:
        """`RESUME_RATIO` in millionths."""
        return round(RESUME_RATIO * PARTS)

    def is_complete(self, at_ms: int, duration_ms: int) -> bool:
        """Whether `at_ms` is at or past the end, as far as completion goes."""
        return (
            at_ms * PARTS >= self.complete_parts * duration_ms
            or duration_ms - at_ms <= COMPLETE_TAIL_MS
        )

    def resume_ms(self, latest_ms: int, duration_ms: int) -> int:
        """Where to go on; `duration_ms` is 0 when it is unknown."""
        if duration_ms and (
            latest_ms * PARTS < self.resume_parts * duration_ms
            or self.is_complete(latest_ms, duration_ms)
        ):
            return 0
        return latest_ms


def fold_before(now_ms: int, kept_days: int) -> int:
    """The first hour that is still kept at `now_ms`; hours are numbered from 1970 on, UTC."""
    return (now_ms // HOUR_MS // DAY_HOURS - kept_days) * DAY_HOURS


def hour_kept(hour: int, now_ms: int, kept_days: int) -> int:
    """The hour under which the credit of `hour` stands: itself, or its day's first when old."""
    return hour if hour >= fold_before(now_ms, kept_days) else hour // DAY_HOURS * DAY_HOURS
