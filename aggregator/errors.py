"""Why an event or a query got no answer. The message is for the client's operator."""


class NoAnswerError(Exception):
    """Base: what was asked may or may not have happened; asking again is safe with ids."""


class OverloadedError(NoAnswerError):
    """More is waiting than the limits admit."""


class ShardsUnavailableError(NoAnswerError):
    """These shards did not answer, or refused to."""

    def __init__(self, reasons: dict[int, str]) -> None:
        names = ", ".join(map(str, sorted(reasons)))
        why = "; ".join(dict.fromkeys(reasons.values()))
        super().__init__(f"shard{'s'[: len(reasons) > 1]} {names} not available: {why}")
        self.reasons = reasons
