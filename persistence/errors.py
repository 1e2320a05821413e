"""What can go wrong with stored data. Every message says what to do about it."""

from pathlib import Path


class PersistenceError(Exception):
    """Base of all errors about stored data."""


class LockedError(PersistenceError):
    """Another process works on this data."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is held by another process: stop the other playhead that uses this data "
            "directory, or give this one another --data-dir"
        )


class BackupUnderWayError(PersistenceError):
    """Another process copies this data."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"another backup of {path} is under way: wait until it has ended")


class DamagedError(PersistenceError):
    """A file is not what was written. Nothing has been changed."""

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {offset}: {what}. Nothing was cut or skipped; "
            "restore this file from a backup"
        )
        self.path = path
        self.offset = offset


class NewerFormatError(PersistenceError):
    """Written by a version of playhead that is newer than this one."""

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(
            f"{path} has format {found}, this playhead reads up to {known}: "
            "start it with the version that wrote it, or a newer one"
        )


class SettingsMismatchError(PersistenceError):
    """The data was made with other settings than those asked for."""


class FencedError(PersistenceError):
    """A newer incarnation owns this shard's log; this one must end."""


class NotWritableError(PersistenceError):
    """The log takes no records now (no space, a failing disk); nothing was kept."""


class SyncFailedError(PersistenceError):
    """fsync failed: what reached the disk is unknown, so this process must end."""
