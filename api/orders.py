"""What the server and its workers have agreed on; apart, so that it need not load what serves."""

import msgspec

from aggregator.cluster import Membership

READY = b"ready\n"
#: Connections that may wait to be accepted.
BACKLOG = 4096
#: How long requests under way may go on when the server stops.
GRACE_S = 3.0


class Orders(msgspec.Struct, frozen=True):
    """The line on standard input; `settings` is the JSON of `Settings`."""

    settings: str
    membership: Membership
