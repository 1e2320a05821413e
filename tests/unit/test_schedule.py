"""When a checkpoint is due: after so much log, after so long, and not while one is made."""

from aggregator.schedule import (
    BUSY_BYTES_PER_S,
    LOOK_EVERY_S,
    RETRY_S,
    TIMES_ENOUGH_MAX,
    Schedule,
)

INTERVAL_S, ERASE_DELAY_S, LOG_BYTES_MIN = 300.0, 10.0, 1_000


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def schedule_of(clock: Clock, log_bytes: int = 0, snapshot_bytes: int = 0) -> Schedule:
    return Schedule(
        log_bytes_min=LOG_BYTES_MIN,
        interval_s=INTERVAL_S,
        erase_delay_s=ERASE_DELAY_S,
        log_bytes=log_bytes,
        snapshot_bytes=snapshot_bytes,
        clock_s=clock,
    )


def due_in_s(
    schedule: Schedule, *, has_more: bool = True, has_erases: bool = False
) -> float | None:
    return schedule.due_in_s(has_more=has_more, has_erases=has_erases)


def test_with_nothing_to_save_none_is_due() -> None:
    clock = Clock()
    schedule = schedule_of(clock)
    clock.now_s += 10 * INTERVAL_S
    assert due_in_s(schedule, has_more=False) is None


def test_one_is_due_after_the_interval() -> None:
    clock = Clock()
    schedule = schedule_of(clock)
    assert due_in_s(schedule) == INTERVAL_S
    clock.now_s += 100.0
    assert due_in_s(schedule) == INTERVAL_S - 100.0
    clock.now_s += INTERVAL_S
    assert due_in_s(schedule) == 0


def test_erases_wait_for_less_long() -> None:
    clock = Clock()
    schedule = schedule_of(clock)
    clock.now_s += 4.0
    assert due_in_s(schedule, has_erases=True) == ERASE_DELAY_S - 4.0
    assert due_in_s(schedule, has_more=False, has_erases=True) == ERASE_DELAY_S - 4.0
    clock.now_s += ERASE_DELAY_S
    assert due_in_s(schedule, has_erases=True) == 0


def test_one_is_due_when_there_is_much_log() -> None:
    schedule = schedule_of(Clock())
    schedule.logged(LOG_BYTES_MIN - 1)
    assert due_in_s(schedule) == INTERVAL_S
    schedule.logged(1)
    assert due_in_s(schedule) == 0


def a_busy_second(clock: Clock, schedule: Schedule) -> None:
    schedule.logged(BUSY_BYTES_PER_S + 1)
    clock.now_s += LOOK_EVERY_S


def test_while_much_log_comes_it_waits_for_less() -> None:
    clock = Clock()
    schedule = schedule_of(clock, snapshot_bytes=10 * BUSY_BYTES_PER_S)
    for _ in range(12):  # more than enough
        a_busy_second(clock, schedule)
        due_in_s(schedule)
    assert due_in_s(schedule) == LOOK_EVERY_S
    clock.now_s += 0.75
    assert due_in_s(schedule) == LOOK_EVERY_S - 0.75
    schedule.logged(BUSY_BYTES_PER_S)
    clock.now_s += 0.25
    assert due_in_s(schedule) == 0


def test_it_does_not_wait_for_ever() -> None:
    clock = Clock()
    schedule = schedule_of(clock, snapshot_bytes=BUSY_BYTES_PER_S)
    for _ in range(TIMES_ENOUGH_MAX - 1):
        a_busy_second(clock, schedule)
        assert due_in_s(schedule) == LOOK_EVERY_S
    a_busy_second(clock, schedule)
    assert due_in_s(schedule) == 0


def test_the_clock_and_erases_do_not_wait_for_less() -> None:
    clock = Clock()
    schedule = schedule_of(clock, snapshot_bytes=100 * BUSY_BYTES_PER_S)
    for _ in range(200):  # twice what is enough
        a_busy_second(clock, schedule)
        due_in_s(schedule)
    assert due_in_s(schedule) == LOOK_EVERY_S
    assert due_in_s(schedule, has_erases=True) == 0
    for _ in range(100):
        a_busy_second(clock, schedule)
    assert due_in_s(schedule) == 0


def test_the_log_that_was_found_counts_too() -> None:
    assert due_in_s(schedule_of(Clock(), log_bytes=LOG_BYTES_MIN)) == 0


def test_a_large_snapshot_waits_for_as_much_log() -> None:
    schedule = schedule_of(Clock(), log_bytes=LOG_BYTES_MIN, snapshot_bytes=3_000)
    assert due_in_s(schedule) == INTERVAL_S
    schedule.logged(3_000 - LOG_BYTES_MIN)
    assert due_in_s(schedule) == 0
    schedule.begin()
    schedule.end(snapshot_bytes=5_000)
    schedule.logged(4_999)
    assert due_in_s(schedule) == INTERVAL_S
    schedule.logged(1)
    assert due_in_s(schedule) == 0


def test_none_is_due_while_one_is_made() -> None:
    clock = Clock()
    schedule = schedule_of(clock)
    schedule.begin()
    schedule.logged(2 * LOG_BYTES_MIN)
    clock.now_s += 2 * INTERVAL_S
    assert due_in_s(schedule, has_erases=True) is None
    schedule.end(snapshot_bytes=0)
    assert due_in_s(schedule) == 0  # what was logged meanwhile is for the next


def test_the_intervals_begin_when_one_has_ended() -> None:
    clock = Clock()
    schedule = schedule_of(clock)
    clock.now_s += INTERVAL_S
    schedule.begin()
    clock.now_s += 20.0
    schedule.end(snapshot_bytes=0)
    assert due_in_s(schedule) == INTERVAL_S
    assert due_in_s(schedule, has_erases=True) == ERASE_DELAY_S


def test_after_one_that_failed_the_next_is_not_tried_at_once_whatever_comes() -> None:
    clock = Clock()
    schedule = schedule_of(clock)
    schedule.begin()
    schedule.postpone()
    schedule.logged(2 * LOG_BYTES_MIN)
    clock.now_s += 1.0
    assert due_in_s(schedule, has_erases=True) == RETRY_S - 1.0
    clock.now_s += RETRY_S
    assert due_in_s(schedule, has_more=False) == 0  # with nothing new, for what it was to save
    schedule.begin()
    schedule.end(snapshot_bytes=0)
    assert due_in_s(schedule) == INTERVAL_S
