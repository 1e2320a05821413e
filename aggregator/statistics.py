"""How a shard is doing, in numbers: of what it has counted, and of its files."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from aggregator.checkpoint import Erasing, Folders
from aggregator.messages import ShardStats
from aggregator.rate import Rate
from aggregator.state import State
from kernels.tables import PAIRS, STREAMS, USERS
from persistence import log
from persistence.errors import PersistenceError
from persistence.store import Totals

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Files:
    """What a shard's folder holds."""

    #: Of each segment of the log.
    log_bytes: Sequence[int]
    broken_tails: int
    #: Of stored events; None where files are damaged.
    stored: Totals | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a shard has come."""

    applied_sequence: int
    #: The last record in the snapshot, and when it was received.
    snapshot_sequence: int
    snapshot_ms: int
    erasing: Sequence[Erasing]
    #: Why nothing can be written, if so.
    refusal: str
    #: Looked at last, so they are no older than the rest.
    files: Files


class Statistics:
    """Of one shard. They are asked for often, so it remembers what takes long."""

    def __init__(self, shard: int, epoch: int, folders: Folders) -> None:
        self._shard = shard
        self._epoch = epoch
        self._folders = folders
        #: Events, when they are answered.
        self.taken = Rate()
        self._stored_damage = ""
        self._movie_hashes = np.empty(0, np.uint64)

    def look_at_files(self) -> Files:
        tails = log.broken_tails(self._folders.log)
        return Files(log.sizes(self._folders.log), len(tails), self._stored())

    def of(self, state: State, watching_now: int, standing: Standing) -> ShardStats:
        """Nothing may change `state` meanwhile."""
        files = standing.files
        stored = files.stored
        hashes = self._hashes_of_movies(state)
        erasing = standing.erasing
        return ShardStats(
            shard=self._shard,
            users=int(state.totals[USERS]),
            movies=len(hashes),
            pairs=int(state.totals[PAIRS]),
            streams=int(state.totals[STREAMS]),
            watching_now=watching_now,
            watch_ms=int(state.movies["watch_ms"].sum()),
            events=state.events,
            events_taken=self.taken.total,
            events_per_second=self.taken.per_second(),
            memory_bytes=psutil.Process().memory_info().rss,
            remembered_ids=len(state.recent),
            epoch=self._epoch,
            log_sequence=standing.applied_sequence,
            log_segments=len(files.log_bytes),
            log_bytes=sum(files.log_bytes),
            broken_tails=files.broken_tails,
            snapshot_sequence=standing.snapshot_sequence,
            snapshot_ms=standing.snapshot_ms,
            stored_sequence=stored and stored.last,
            stored_events=stored and stored.facts,
            stored_bytes=stored and stored.bytes,
            erasing=len(erasing),
            erasing_since_ms=min((each.received_ms for each in erasing), default=None),
            writable=not standing.refusal,
            refusal=standing.refusal,
            movie_hashes=hashes.tobytes(),
        )

    def _stored(self) -> Totals | None:
        try:
            return self._folders.store.totals()
        except PersistenceError as error:
            if self._stored_damage != str(error):
                self._stored_damage = str(error)
                _logger.error("shard %d: %s", self._shard, error)
            return None

    def _hashes_of_movies(self, state: State) -> NDArray[np.uint64]:
        """Of those that exist; each name is hashed once."""
        names, movies = state.movie_names, state.movies
        new = names.hashes(len(self._movie_hashes))
        self._movie_hashes = np.append(self._movie_hashes, new)
        return self._movie_hashes[(movies["pairs"] > 0) | (movies["described"] > 0)]
