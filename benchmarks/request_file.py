"""HTTP requests in a file, whole and in order: what wrk and the open loop send as it is.

Each stands behind a line with its size in bytes. So nothing is made up while
something is measured, and every subject gets the same bytes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RequestFile:
    """`offsets` are where the requests begin; each has `events_each` events."""

    path: Path
    offsets: NDArray[np.int64]
    events_each: float = 0

    def offset(self, number: int) -> int:
        """Where to go on after so many requests, counted over and over."""
        return int(self.offsets[number % len(self.offsets)])


def write(path: Path, requests: Iterable[bytes], events_each: float = 0) -> RequestFile:
    """Writes at least one request."""
    offsets, offset = [], 0
    with path.open("wb") as file:
        for request in requests:
            offsets.append(offset)
            offset += file.write(b"%d\n%b" % (len(request), request))
    return RequestFile(path, np.array(offsets), events_each)


def read_forever(path: Path, offset: int) -> Iterator[bytes]:
    """From an offset on, and again from the start."""
    with path.open("rb") as file:
        file.seek(offset)
        while True:
            if size := file.readline():
                yield file.read(int(size))
            else:
                file.seek(0)


def get(path: str, headers: bytes = b"") -> bytes:
    """A request; `headers` end with their line breaks."""
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path.encode(), headers)


def post(body: bytes, content_type: str = "application/json") -> bytes:
    """Events for `POST /`."""
    return (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (content_type.encode(), len(body), body)
    )
