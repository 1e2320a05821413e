"""What is changed by hand: positions, completion, hiding, erasing, the catalogue.

Commands travel to the shard and are kept in its log in the same encoding: a
MessagePack array.
"""

import msgspec


class SetPosition(msgspec.Struct, tag=True, frozen=True):
    """Sets the latest moment; with `if_versions`, only a pair that has one of them.

    Empty `if_versions` stand for any version: the pair must exist.
    """

    user: str
    slug: str
    at_ms: int
    if_versions: list[int] | None = None


class MarkCompleted(msgspec.Struct, tag=True, frozen=True):
    user: str
    slug: str


class UnmarkCompleted(msgspec.Struct, tag=True, frozen=True):
    user: str
    slug: str


class Hide(msgspec.Struct, tag=True, frozen=True):
    """Leaves a pair out of the continue list until its next event."""

    user: str
    slug: str


class Erase(msgspec.Struct, tag=True, frozen=True):
    """Forgets a pair, or with no slug all of a user."""

    user: str
    slug: str | None = None


class Describe(msgspec.Struct, tag=True, frozen=True):
    """Replaces a movie's entry in the catalogue."""

    slug: str
    duration_ms: int | None
    title: str | None


PairCommand = SetPosition | MarkCompleted | UnmarkCompleted | Hide
Command = PairCommand | Erase | Describe


_commands = msgspec.msgpack.Decoder(list[Command])


def encode(commands: list[Command]) -> bytes:
    return msgspec.msgpack.encode(commands)


def decode(encoded: bytes | memoryview) -> list[Command]:
    """Raises `msgspec.MsgspecError`."""
    return _commands.decode(encoded)
