"""What can be set: as a flag of `playhead serve` or as PLAYHEAD_<NAME> in the environment."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aggregator.rules import HOURS_KEPT_DAYS, Rules

#: Of a server's cores, half parse requests and half keep totals; on two cores, one each.
_HALF_THE_CORES = max(1, (os.cpu_count() or 1) // 2)

#: As browsers send it. They leave out a port that is the scheme's own.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_OWN_PORT = re.compile(r"http:.*:80|https:.*:443")
#: What pydantic puts before the words of a validator.
_PREFIX = "Value error, "

LogLevel = Literal["debug", "info", "warning", "error"]

# What `playhead rebuild` takes, too.
Shards = Annotated[int, Field(ge=1, le=4096)]
MaxGapMs = Annotated[int, Field(ge=0, le=3_600_000)]
IdleMs = Annotated[int, Field(ge=0, le=31_536_000_000)]
CompleteRatio = Annotated[float, Field(ge=0.000_001, le=1)]
Credit = Literal["position", "duration"]
HoursKeptDays = Annotated[int, Field(ge=31, le=3660)]


class Settings(BaseSettings):
    """The server's settings. Flags win over the environment, which wins over the defaults."""

    model_config = SettingsConfigDict(env_prefix="PLAYHEAD_", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    data_dir: Path = Field(Path("data"), description="Where everything is kept.")
    shards: Shards | None = Field(
        None, description="Shards; by default as the data has, else as many as workers."
    )
    workers: int = Field(_HALF_THE_CORES, ge=1, le=256, description="HTTP processes.")
    ray_address: str | None = Field(
        None, description="An existing Ray cluster to run on, instead of one of our own."
    )
    log_level: LogLevel = Field("info", description="How much to log.")

    max_gap_ms: MaxGapMs = Field(
        60_000, description="The longest step that still counts as playback."
    )
    idle_ms: IdleMs = Field(1_800_000, description="A break longer than this is a new view.")
    complete_ratio: CompleteRatio = Field(
        0.9, description="A movie is completed at this share of its length."
    )
    credit: Credit = Field(
        "position", description="What `at` means: a position, or an amount watched."
    )

    body_bytes_max: int = Field(
        16 << 20, ge=1024, le=256 << 20, description="Larger requests get 413."
    )
    events_max: int = Field(
        100_000, ge=1, le=1_000_000, description="Requests with more events get 413."
    )
    queue_events_max: int = Field(
        200_000, ge=1, description="Events that may wait for a shard, per worker; past it 503."
    )
    queue_bytes_max: int = Field(
        64 << 20, ge=1024, description="Bytes that may wait for a shard, per worker; past it 503."
    )
    shard_timeout_s: float = Field(
        10.0, gt=0, le=300, description="How long to try a shard that is away, before 503."
    )
    request_timeout_s: int = Field(
        30, ge=1, le=3600, description="How long a client may take to send a request."
    )
    connections_max: int = Field(
        10_000, ge=1, description="Connections a worker holds; past it 503."
    )
    cors_origins: str = Field(
        "",
        description="Origins of web pages whose players may call, by commas; * for all.",
    )
    snapshot_log_bytes: int = Field(
        128 << 20,
        ge=1 << 12,
        description="A shard writes a snapshot after so many bytes of log, or as many as its last.",
    )
    snapshot_interval_s: float = Field(
        600.0, gt=0, description="A shard that changed writes a snapshot after this long."
    )
    erase_delay_s: float = Field(
        5.0, ge=0, description="How long an erase waits for others before files are rewritten."
    )
    hours_kept_days: HoursKeptDays = Field(
        HOURS_KEPT_DAYS, description="Hourly sums of older days become daily ones."
    )
    segment_bytes: int = Field(
        64 << 20, ge=1 << 12, le=1 << 30, description="A log segment's size, about."
    )

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        """What is no origin would match nothing, and nobody would be told."""
        for origin in filter(None, map(str.strip, origins.split(","))):
            if origin != "*" and (not _ORIGIN.fullmatch(origin) or _OWN_PORT.fullmatch(origin)):
                raise ValueError(
                    f"{origin!r} is no origin as browsers send it: scheme://host[:port] in lower "
                    "case, with nothing after it and without the scheme's own port; or * for all"
                )
        return origins

    def rules(self) -> Rules:
        return Rules(self.max_gap_ms, self.idle_ms, self.complete_ratio, self.credit)


def flaws(error: ValidationError, flag: str = "") -> str:
    """What is wrong with the settings, or with what the one `flag` is given, in a line."""
    return "; ".join(
        f"{_names(str(flaw['loc'][0])) if flaw['loc'] else flag}: "
        f"{flaw['msg'].removeprefix(_PREFIX)}"
        for flaw in error.errors()
    )


def _names(setting: str) -> str:
    return f"--{setting.replace('_', '-')} (or PLAYHEAD_{setting.upper()})"
