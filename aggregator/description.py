"""What a shard says of itself when it starts; apart, so that who asks need not load shards."""

import msgspec


class Description(msgspec.Struct, frozen=True):
    """Where a shard is and how it came up. `failure` says why it does not serve, if so."""

    shard: int
    node_id: str
    pid: int
    socket_path: str
    queries_path: str
    recovered: str
    failure: str | None
