"""How long things took: counts in buckets that grow by 2 %, so percentiles are exact to 2 %."""

import math

import numpy as np

_GROWTH = math.log(1.02)
#: The first bucket ends at a microsecond; the last one is past a quarter of an hour.
_FIRST_S = 1e-6
_BUCKETS = math.ceil(math.log(1e9) / _GROWTH)


class Latencies:
    """A histogram over logarithmic buckets, as HdrHistogram is; all are in seconds."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, np.int64)

    def add(self, latency_s: float) -> None:
        bucket = math.ceil(math.log(max(latency_s, _FIRST_S) / _FIRST_S) / _GROWTH)
        self._counts[min(bucket, _BUCKETS - 1)] += 1

    def percentile_s(self, percent: float) -> float:
        """The latency that `percent` of all do not exceed; 0 when there are none."""
        below = self._counts.cumsum()
        if not below[-1]:
            return 0.0
        bucket = int(np.searchsorted(below, math.ceil(below[-1] * percent / 100)))
        return _FIRST_S * math.exp(bucket * _GROWTH)

    def copy(self) -> "Latencies":
        return self + Latencies()

    def __add__(self, other: "Latencies") -> "Latencies":
        return _of(self._counts + other._counts)

    def __sub__(self, earlier: "Latencies") -> "Latencies":
        """What has come since `earlier`, which was a copy."""
        return _of(self._counts - earlier._counts)


def _of(counts: np.typing.NDArray[np.int64]) -> Latencies:
    latencies = Latencies()
    latencies._counts = counts
    return latencies
