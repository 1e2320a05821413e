"""What the model of machines is told: what users do, what a machine is, what things cost."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

SECONDS_OF_A_DAY, DAYS_OF_A_YEAR = 86_400, 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What users do. Each heartbeat is an event; questions come besides.

    Parameters
    ----------
    share_watching
        Of all users, how many watch at the peak of the day.
    mean_to_peak
        Events of a day's mean second to those of a second at the peak.
    heartbeat_s
        Seconds between two events of a player.
    movies_a_user_a_year
        Movies that a user begins in a year; such a pair is kept for ever.
    years
        How long pairs and events have been kept.
    sessions_a_movie
        In how many sessions a user watches a movie.
    movies
        How many movies there are.
    reads_a_heartbeat
        Questions of a player or page about its own user.
    movie_reads_a_heartbeat
        Questions about a movie as all have watched it.
    share_in_batches
        Of all events, how many something in front of playhead gathers to requests of 1,000.
    """

    users: Annotated[int, Parameter(parse=False)] = 1_000_000
    share_watching: float = 0.05
    mean_to_peak: float = 0.4
    heartbeat_s: float = 10.0
    movies_a_user_a_year: float = 40.0
    years: float = 1.0
    sessions_a_movie: float = 1.0
    movies: int = 10_000
    reads_a_heartbeat: float = 0.05
    movie_reads_a_heartbeat: float = 0.0002
    share_in_batches: float = 0.0

    @property
    def watching(self) -> float:
        return self.users * self.share_watching

    @property
    def events_per_s(self) -> float:
        return self.watching / self.heartbeat_s

    @property
    def events_kept(self) -> float:
        mean_per_s = self.events_per_s * self.mean_to_peak
        return mean_per_s * SECONDS_OF_A_DAY * DAYS_OF_A_YEAR * self.years

    @property
    def pairs(self) -> float:
        return self.users * self.movies_a_user_a_year * self.years


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineType:
    """A machine, and how much of it may be in use at the peak.

    Parameters
    ----------
    cores
        Cores.
    memory_gib
        Memory in GiB.
    disk_tb
        Room on its disk in TB.
    disk_mb_per_s
        What its disk can write in MB a second.
    core_share
        Of each core, how much may be in use.
    other_share
        The same of memory, of room on the disk, and of what it can write.
    frame_ms
        What a frame of events may take on average, from a worker to the disk and back.
    start_s
        How long a shard may take to load its pairs when it starts.
    checkpoints_at_once
        Of its shards, how many make a checkpoint at the same time, with memory for each.
    """

    cores: int = 16
    memory_gib: float = 128
    disk_tb: float = 8
    disk_mb_per_s: float = 500
    core_share: float = 0.6
    other_share: float = 0.8
    frame_ms: float = 20
    start_s: float = 60
    checkpoints_at_once: float = 1.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Core seconds, bytes, and seconds of the disk, that one of each takes."""

    #: Of a worker: a single event, without its share of a frame; an event in a batch.
    request_s: float
    json_event_s: float
    arrow_event_s: float
    worker_frame_s: float
    read_s: float
    #: A shard that it asks about a movie.
    fan_out_s: float
    #: Of a shard: a group of frames that are synced together, a frame, an event.
    commit_s: float
    frame_s: float
    event_s: float
    query_frame_s: float
    query_s: float
    movie_frame_s: float
    movie_query_s: float
    #: Of a checkpoint's process, and of a start.
    load_pair_s: float
    write_pair_s: float
    replay_event_s: float
    archive_event_s: float
    #: Memory; a checkpoint's process has a pair twice, as rows and as columns.
    pair_bytes: float
    session_bytes: float
    #: Of each shard.
    movie_bytes: float
    checkpoint_pair_bytes: float
    process_bytes: float
    #: On disk.
    log_frame_bytes: float
    log_event_bytes: float
    store_event_bytes: float
    snapshot_pair_bytes: float
    #: One append, alone; and how many syncs of several files the disk makes in a second.
    append_s: float
    syncs_per_s: float
