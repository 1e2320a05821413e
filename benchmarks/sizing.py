"""How many machines so many users take, from what each operation costs.

A machine has a playhead of its own, with workers and shards, and a part of all users.
An event goes to its user's machine, a question about a movie to all of them: each of
their shards has a part of the answer. What the model leaves out: what is in front of the
machines, and whoever adds up what several of them say about a movie.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from api.settings import Settings
from benchmarks.demand import Costs, Demand, MachineType
from benchmarks.flow import Flow

GIB, TB, MB = 1 << 30, 10**12, 10**6
#: What may be used up.
LIMITS = (
    *("cores", "memory", "disk space", "disk writes"),
    *("wait for fsync", "questions about movies"),
)
#: Two snapshots are kept, and another is being written; the log goes back to the older one.
SNAPSHOTS_KEPT, LOGS_KEPT = 3, 3
#: Events in a request of those that come in batches.
BATCH_EVENTS = 1_000
MACHINES_MAX = 1 << 20
#: A frame waits for the commit before its own too: what one takes, of what a frame may wait.
SHARE_OF_WAIT = 0.5


def _default(setting: str) -> Any:
    return Settings.model_fields[setting].default


@dataclass(frozen=True, slots=True)
class Load:
    """A second of a shard and of a worker, and the shares of a core that it takes of them."""

    events: float
    frames: float
    commits: float
    #: Mean times from when a frame is sent, or an event is there, to the reply.
    frame_wait_s: float
    event_wait_s: float
    appending: float
    reading: float
    asked_about_movies: float
    worker_busy: float

    @property
    def shard_busy(self) -> float:
        return self.appending + self.reading + self.asked_about_movies


@dataclass(frozen=True, slots=True)
class Size:
    """So many machines, and what of each is in use at the peak.

    Frames leave as soon as they can, so processes seem busier than they have to be: the
    more there is to do, the more each frame has, and the less an event takes. `usual` is
    what is to be seen, `pressed` what is left when frames are as long under way as they may.
    """

    demand: Demand
    machines: int
    workers: int
    shards: int
    usual: Load
    pressed: Load
    #: Of a shard; how long it takes to load them, and the share of a core for checkpoints.
    pairs: float
    start_s: float
    checkpoint_busy: float
    #: Of `LIMITS`, how much of what may be in use is; more users would exhaust the largest first.
    uses: dict[str, float]

    @property
    def used_up_first(self) -> str:
        return max(self.uses, key=self.uses.__getitem__)

    def cores_busy(self, load: Load) -> dict[str, float]:
        """Of one machine, by who uses them."""
        return {
            "HTTP workers": self.workers * load.worker_busy,
            "shards": self.shards * load.shard_busy,
            "checkpoints": self.shards * self.checkpoint_busy,
        }

    def fits(self, machine: MachineType) -> bool:
        """No process has more to do than one core may, or takes too long, or uses up anything."""
        busiest = max(self.pressed.worker_busy, self.pressed.shard_busy, self.checkpoint_busy)
        in_time = self.start_s <= machine.start_s
        return in_time and busiest <= machine.core_share and max(self.uses.values()) <= 1


def size(demand: Demand, machine: MachineType, costs: Costs) -> Size | None:
    """The fewest machines that do, with the fewest processes on each.

    None where more machines do not help: each answers all questions about movies.
    """
    few, many = 0, 1
    while (found := _on(demand, machine, costs, many)) is None:
        few, many = many, 2 * many
        if many > MACHINES_MAX:
            return None
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
    return next((each for each in sizes if each.fits(machine)), None)


def _splits(cores: int) -> Iterator[tuple[int, int]]:
    """Workers and shards; on more than one core, one each at the least."""
    for shards in range(1, max(cores, 2)):
        for workers in range(1, max(cores - shards, 1) + 1):
            yield workers, shards


def size_with(
    demand: Demand, machine: MachineType, costs: Costs, machines: int, workers: int, shards: int
) -> Size:
    """What these are in for; whether or not that is too much."""
    longest_s = machine.frame_ms / 1000 * SHARE_OF_WAIT
    usual, pressed = (
        _load(demand, costs, machines, workers, shards, least_s) for least_s in (0, longest_s)
    )
    pairs = demand.pairs / machines / shards
    checkpoint_busy, interval_s = _checkpoints(usual, pairs, costs)
    found = Size(
        demand,
        machines,
        workers,
        shards,
        usual,
        pressed,
        pairs,
        pairs * costs.load_pair_s,
        checkpoint_busy,
        uses={},
    )
    return replace(found, uses=_uses(found, machine, costs, interval_s))


def _load(
    demand: Demand, costs: Costs, machines: int, workers: int, shards: int, least_s: float
) -> Load:
    """Where a commit, or a frame of questions, is under way for so long at the least."""
    parts = machines * shards
    events = demand.events_per_s / parts
    in_batches = events * demand.share_in_batches
    flow = Flow(
        workers=workers,
        events=events,
        # Of each request of many events, each shard has a part.
        requests=events - in_batches + shards * in_batches / BATCH_EVENTS,
        reads=demand.events_per_s * demand.reads_a_heartbeat / parts,
        movie_reads=demand.events_per_s * demand.movie_reads_a_heartbeat,
    )
    flow.settle(costs, max(costs.append_s, shards / costs.syncs_per_s, least_s), least_s)
    of_lanes = (
        (events - in_batches) * costs.request_s
        + in_batches * costs.json_event_s
        + (flow.frames + flow.query_frames - flow.movie_frames) * costs.worker_frame_s
        + flow.reads * costs.read_s
    )
    fanning_out = flow.movie_reads * (costs.read_s + shards * costs.fan_out_s)
    return Load(
        events=events,
        frames=flow.frames,
        commits=flow.commits,
        frame_wait_s=flow.wait_s,
        event_wait_s=flow.wait_s * (1 + flow.frames / workers * flow.wait_s / 2),
        appending=flow.appending(costs),
        reading=flow.reading(costs),
        asked_about_movies=flow.asked_about_movies(costs),
        worker_busy=(of_lanes * shards + fanning_out) / workers,
    )


def _checkpoints(load: Load, pairs: float, costs: Costs) -> tuple[float, float]:
    """The share of a core that they take of a shard, and the seconds between two."""
    due_bytes = max(_default("snapshot_log_bytes"), pairs * costs.snapshot_pair_bytes)
    interval_s = min(_default("snapshot_interval_s"), due_bytes / _logged_per_s(load, costs))
    a_pair_s = costs.load_pair_s + costs.write_pair_s
    an_event_s = costs.replay_event_s + costs.archive_event_s
    return pairs * a_pair_s / interval_s + load.events * an_event_s, interval_s


def _logged_per_s(load: Load, costs: Costs) -> float:
    return load.frames * costs.log_frame_bytes + load.events * costs.log_event_bytes


def _uses(size: Size, machine: MachineType, costs: Costs, interval_s: float) -> dict[str, float]:
    """Shares of what may be in use."""
    demand, pairs = size.demand, size.pairs * size.shards
    pair_bytes = costs.pair_bytes + demand.sessions_a_movie * costs.session_bytes
    pair_bytes += machine.checkpoints_at_once * costs.checkpoint_pair_bytes
    memory_bytes = pairs * pair_bytes
    memory_bytes += (size.workers + size.shards) * costs.process_bytes
    memory_bytes += size.shards * demand.movies * costs.movie_bytes
    snapshot_bytes = pairs * costs.snapshot_pair_bytes
    logged_per_s = size.shards * _logged_per_s(size.usual, costs)
    stored_per_s = size.shards * size.usual.events * costs.store_event_bytes
    written_per_s = logged_per_s + stored_per_s + snapshot_bytes / interval_s
    kept_bytes = demand.events_kept / size.machines * costs.store_event_bytes
    kept_bytes += SNAPSHOTS_KEPT * snapshot_bytes + LOGS_KEPT * logged_per_s * interval_s
    cores = sum(size.cores_busy(size.pressed).values())
    in_use = (
        cores / (machine.cores * machine.core_share),
        memory_bytes / (machine.memory_gib * GIB * machine.other_share),
        kept_bytes / (machine.disk_tb * TB * machine.other_share),
        written_per_s / (machine.disk_mb_per_s * MB * machine.other_share),
        size.usual.frame_wait_s * 1000 / machine.frame_ms,
        size.pressed.asked_about_movies / machine.core_share,
    )
    return dict(zip(LIMITS, in_use, strict=True))
