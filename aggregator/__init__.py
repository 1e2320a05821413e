"""What watch time is, the shards that keep it, and the way to them.

Knows nothing of HTTP, nor of how bytes get on disk. The rules and the state
(`rules`, `reference`, `state` and the columns under it) are plain Python on
arrays; `shard` joins them to `persistence`; `router` and `cluster` reach shards
through Ray.
"""
