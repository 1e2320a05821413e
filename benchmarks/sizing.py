"""How many machines so many users take, from what each operation costs.

A machine has a playhead of its own, with workers and shards, and a part of all users.
An event goes to its user's machine, a question about a movie to all of them: each of
their shards has a part of the answer. What the model leaves out: what is in front of the
machines, and whoever adds up what several of them say about a movie.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import exp
from typing import Any

from api.settings import Settings

SECONDS_OF_A_DAY, DAYS_OF_A_YEAR = 86_400, 365
GIB, MIB, TB, MB = 1 << 30, 1 << 20, 10**12, 10**6
#: Two snapshots are kept, and another is being written; the log goes back to the older one.
SNAPSHOTS_KEPT, LOGS_KEPT = 3, 3
#: Events in a request of those that come in batches.
BATCH_EVENTS = 1_000
#: Frames and commits wait for each other; that settles long before.
STEPS = 60
MACHINES_MAX = 1 << 20


def _default(setting: str) -> Any:
    return Settings.model_fields[setting].default


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What users do. A heartbeat is an event; reads are what players and pages ask besides."""

    users: int = 1_000_000
    #: Of all users, at the peak of the day; and events of a day's mean second to the peak's.
    share_watching: float = 0.05
    mean_to_peak: float = 0.4
    heartbeat_s: float = 10.0
    #: Pairs of a user and a movie are never forgotten: so many are new each year, for so long.
    movies_a_user_a_year: float = 40.0
    years: float = 1.0
    sessions_a_movie: float = 1.0
    #: That are offered.
    movies: int = 10_000
    #: Questions about the user's own movies, and about a movie as all have watched it.
    reads_a_heartbeat: float = 0.05
    movie_reads_a_heartbeat: float = 0.001
    #: Of all events, that something in front of playhead gathers to requests of 1,000.
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
    """A machine, and how much of it may be in use at the peak."""

    cores: int = 16
    memory_gib: float = 128
    disk_tb: float = 8
    disk_mb_per_s: float = 500
    #: Of each core; of memory, disk space and what the disk can write.
    core_share: float = 0.6
    other_share: float = 0.8
    #: What a frame of events may take on average, from the worker to the disk and back.
    frame_ms: float = 20
    #: Of the shards, how many make a checkpoint at the same time; they began at the same time.
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
    movie_query_s: float
    #: For each stream that is watched now, in each frame that asks about movies.
    watching_s: float
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


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard's second at the peak: what comes, and the share of a core that each part takes."""

    events: float
    frames: float
    commits: float
    watching: float
    pairs: float
    #: Mean times from when a frame is sent, or an event is there, to the reply.
    frame_wait_s: float
    event_wait_s: float
    appending: float
    reading: float
    asked_about_movies: float

    @property
    def busy(self) -> float:
        return self.appending + self.reading + self.asked_about_movies


@dataclass(frozen=True, slots=True)
class Size:
    """So many machines, each with its processes, and what of it is in use at the peak."""

    demand: Demand
    machines: int
    workers: int
    shards: int
    worker_busy: float
    shard: Shard
    #: Of a core, for each shard.
    checkpoint_busy: float
    #: Of what may be in use; what is used most is what more users would exhaust first.
    uses: dict[str, float] = field(default_factory=dict)

    @property
    def cores_busy(self) -> float:
        """Of one machine."""
        of_shards = self.shards * (self.shard.busy + self.checkpoint_busy)
        return self.workers * self.worker_busy + of_shards

    @property
    def fits(self) -> bool:
        return max(self.uses.values()) <= 1

    @property
    def first_used_up(self) -> str:
        return max(self.uses, key=self.uses.__getitem__)


def size(demand: Demand, machine: MachineType, costs: Costs) -> Size:
    """The fewest machines that do, with the fewest processes on each.

    Raises `ValueError` where more machines do not help: each answers all questions
    about movies.
    """
    few, many = 0, 1
    while (found := _on(demand, machine, costs, many)) is None:
        few, many = many, 2 * many
        if many > MACHINES_MAX:
            raise ValueError("questions about movies are too many for any number of machines")
    while many - few > 1:
        middle = (few + many) // 2
        fewer = _on(demand, machine, costs, middle)
        if fewer is None:
            few = middle
        else:
            found, many = fewer, middle
    return found


def _on(demand: Demand, machine: MachineType, costs: Costs, machines: int) -> Size | None:
    """With the fewest processes on so many machines; None if that cannot be."""
    splits = sorted(_splits(machine.cores), key=sum)
    sizes = (size_with(demand, machine, costs, machines, *split) for split in splits)
    return next((each for each in sizes if each.fits), None)


def _splits(cores: int) -> Iterator[tuple[int, int]]:
    """Workers and shards; on more than one core, one each at the least."""
    for shards in range(1, max(cores, 2)):
        for workers in range(1, max(cores - shards, 1) + 1):
            yield workers, shards


def size_with(
    demand: Demand, machine: MachineType, costs: Costs, machines: int, workers: int, shards: int
) -> Size:
    """What these are in for; whether or not that is too much."""
    parts = machines * shards
    events = demand.events_per_s / parts
    singles = events * (1 - demand.share_in_batches)
    # Of each request of many events, each shard has a part.
    batches = shards * events * demand.share_in_batches / BATCH_EVENTS
    append_s = max(costs.append_s, shards / costs.syncs_per_s)
    frames, commits, wait_s = _appends(events, singles + batches, workers, append_s, costs)
    reads = demand.events_per_s * demand.reads_a_heartbeat / parts
    movie_reads = demand.events_per_s * demand.movie_reads_a_heartbeat
    watching = demand.watching / parts
    query_frames, movie_frames = _questions(reads, movie_reads, watching, workers, costs)
    lane_busy = frames / workers * wait_s
    shard = Shard(
        events=events,
        frames=frames,
        commits=commits,
        watching=watching,
        pairs=demand.pairs / parts,
        frame_wait_s=wait_s,
        event_wait_s=wait_s * (1 + lane_busy / 2),
        appending=commits * costs.commit_s + frames * costs.frame_s + events * costs.event_s,
        reading=(query_frames - movie_frames) * costs.query_frame_s + reads * costs.query_s,
        asked_about_movies=movie_frames * (costs.query_frame_s + watching * costs.watching_s)
        + movie_reads * costs.movie_query_s,
    )
    worker_busy = (
        singles * costs.request_s
        + events * demand.share_in_batches * costs.json_event_s
        + (frames + query_frames - movie_frames) * costs.worker_frame_s
        + reads * costs.read_s
    ) * shards / workers + movie_reads * (costs.read_s + shards * costs.fan_out_s) / workers
    checkpoint_busy, interval_s = _checkpoints(shard, costs)
    found = Size(demand, machines, workers, shards, worker_busy, shard, checkpoint_busy)
    found.uses.update(_uses(found, machine, costs, interval_s))
    return found


def gathered(per_s: float, each_s: float) -> float:
    """How many start a second, if each takes `each_s` and has what came during the one before.

    So many a second come, at random. When none has come, the next starts with the first.
    """
    return 1 / (each_s + exp(-per_s * each_s) / per_s) if per_s else 0.0


def _appends(
    events: float, parts: float, workers: int, append_s: float, costs: Costs
) -> tuple[float, float, float]:
    """Frames and commits a second of a shard, and a frame's wait, with a lane in each worker.

    A commit has the frames of all lanes that wait; a lane's next frame waits for its last.
    Events are counted while the next are on their way to the disk.
    """
    frames = commits = wait_s = 0.0
    commit_s = append_s + costs.commit_s + costs.frame_s
    for _ in range(STEPS):
        wait_s = commit_s * (1 + min(commits * commit_s, 1) / 2)
        frames = workers * gathered(parts / workers, wait_s)
        commits = gathered(frames, commit_s)
        disk_s = max(append_s, events / commits * costs.event_s)
        settled_s = disk_s + costs.commit_s + frames / commits * costs.frame_s
        commit_s = (commit_s + settled_s) / 2
    return frames, commits, wait_s


def _questions(
    reads: float, movie_reads: float, watching: float, workers: int, costs: Costs
) -> tuple[float, float]:
    """Frames of questions a second to a shard, and those of them that ask about movies."""
    questions = reads + movie_reads
    frames = movie_frames = 0.0
    frame_s = costs.query_frame_s
    for _ in range(STEPS):
        frames = workers * gathered(questions / workers, frame_s)
        movie_frames = min(frames, movie_reads)
        if not frames:
            break
        about_movies_s = watching * costs.watching_s + movie_reads / frames * costs.movie_query_s
        settled_s = costs.query_frame_s + reads / frames * costs.query_s
        settled_s += movie_frames / frames * about_movies_s
        frame_s = (frame_s + settled_s) / 2
    return frames, movie_frames


def _checkpoints(shard: Shard, costs: Costs) -> tuple[float, float]:
    """The share of a core that they take of a shard, and the seconds between two."""
    log_per_s = shard.frames * costs.log_frame_bytes + shard.events * costs.log_event_bytes
    due_bytes = max(_default("snapshot_log_bytes"), shard.pairs * costs.snapshot_pair_bytes)
    interval_s = min(_default("snapshot_interval_s"), due_bytes / log_per_s)
    a_pair_s = costs.load_pair_s + costs.write_pair_s
    an_event_s = costs.replay_event_s + costs.archive_event_s
    return shard.pairs * a_pair_s / interval_s + shard.events * an_event_s, interval_s


def _uses(size: Size, machine: MachineType, costs: Costs, interval_s: float) -> dict[str, float]:
    """Shares of what may be in use."""
    shard, demand = size.shard, size.demand
    pairs = shard.pairs * size.shards
    pair_bytes = costs.pair_bytes + demand.sessions_a_movie * costs.session_bytes
    pair_bytes += machine.checkpoints_at_once * costs.checkpoint_pair_bytes
    memory_bytes = pairs * pair_bytes
    memory_bytes += (size.workers + size.shards) * costs.process_bytes
    memory_bytes += size.shards * demand.movies * costs.movie_bytes
    snapshot_bytes = pairs * costs.snapshot_pair_bytes
    log_per_s = shard.frames * costs.log_frame_bytes + shard.events * costs.log_event_bytes
    log_per_s *= size.shards
    written_per_s = log_per_s + snapshot_bytes / interval_s
    written_per_s += shard.events * size.shards * costs.store_event_bytes
    kept_bytes = demand.events_kept / size.machines * costs.store_event_bytes
    kept_bytes += SNAPSHOTS_KEPT * snapshot_bytes + LOGS_KEPT * log_per_s * interval_s
    return {
        "HTTP workers": size.worker_busy / machine.core_share,
        "shards": shard.busy / machine.core_share,
        "checkpoints": size.checkpoint_busy / machine.core_share,
        "all cores": size.cores_busy / (machine.cores * machine.core_share),
        "memory": memory_bytes / (machine.memory_gib * GIB * machine.other_share),
        "disk space": kept_bytes / (machine.disk_tb * TB * machine.other_share),
        "disk writes": written_per_s / (machine.disk_mb_per_s * MB * machine.other_share),
        "wait for fsync": shard.frame_wait_s * 1000 / machine.frame_ms,
    }
