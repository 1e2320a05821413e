"""Natural batching, worked out: how large frames and commits get by what comes."""

from dataclasses import dataclass
from math import exp

from benchmarks.demand import Costs

#: Frames and commits wait for each other; that settles long before.
STEPS = 60
#: Of a core, that is left for one kind of work however much there is of the other.
IDLE_MIN = 0.05


def gathered(per_s: float, each_s: float) -> float:
    """How many start a second, if each takes `each_s` and has what came during the one before.

    So many a second come, at random. When none has come, the next starts with the first.
    """
    return per_s / together(per_s * each_s)


def together(came: float) -> float:
    """How many start together, on average, when so many come while one is under way."""
    return came + exp(-came)


@dataclass(slots=True)
class Flow:
    """What comes to a shard in a second, from a lane in each worker, and what becomes of it."""

    workers: int
    events: float
    requests: float
    reads: float
    movie_reads: float
    frames: float = 0.0
    commits: float = 0.0
    #: Of a frame of events, for its reply.
    wait_s: float = 0.0
    query_frames: float = 0.0
    movie_frames: float = 0.0

    def appending(self, costs: Costs) -> float:
        """The share of a core for events."""
        frames_s = self.commits * costs.commit_s + self.frames * costs.frame_s
        return frames_s + self.events * costs.event_s

    def reading(self, costs: Costs) -> float:
        """The same for questions about users."""
        frames = self.query_frames - self.movie_frames
        return frames * costs.query_frame_s + self.reads * costs.query_s

    def asked_about_movies(self, costs: Costs) -> float:
        return self.movie_frames * costs.movie_frame_s + self.movie_reads * costs.movie_query_s

    def settle(self, costs: Costs, append_s: float, least_s: float) -> None:
        """Finds how many frames and commits there are, as each waits for the one before.

        A commit has the frames of all lanes that wait; its events are counted while the
        next is on its way to the disk. What is done for events waits while questions are
        answered, and the other way round.
        """
        commit_s, question_s = append_s + costs.commit_s + costs.frame_s, costs.query_frame_s
        for _ in range(STEPS):
            self._gather(commit_s, max(question_s, least_s))
            asked = self.reading(costs) + self.asked_about_movies(costs)
            idle, others_idle = (max(1 - busy, IDLE_MIN) for busy in (asked, self.appending(costs)))
            work_s = costs.commit_s + self.frames / self.commits * costs.frame_s
            count_s = self.events / self.commits * costs.event_s
            commit_s = (commit_s + max(append_s, count_s / idle) + work_s / idle) / 2
            if self.query_frames:
                question_s = (question_s + asked / self.query_frames / others_idle) / 2

    def _gather(self, commit_s: float, question_s: float) -> None:
        # A lane has one frame under way, so a frame meets those of other lanes alone.
        others = (self.workers - 1) / self.workers
        busy = min(self.commits * commit_s, 1) * others
        # It comes at any moment of a commit, or, of a lane that always has one, as it begins.
        left = (1 + min(self.frames / self.workers * self.wait_s, 1)) / 2
        self.wait_s = commit_s * (1 + busy * left)
        self.frames = self.workers * gathered(self.requests / self.workers, self.wait_s)
        self.commits = self.frames / together(self.frames * others * commit_s)
        questions = self.reads + self.movie_reads
        self.query_frames = self.workers * gathered(questions / self.workers, question_s)
        self.movie_frames = min(self.query_frames, self.movie_reads)
