from __future__ import annotations

import pytest
from aegis_discovery.feed import (
    BATCH,
    HEARTBEAT,
    MAX_BATCH,
    PROCESS_TICKS,
    FeedPacer,
    Ticks,
    heartbeat_phase,
    heartbeat_ticks,
)


def send(pacer: FeedPacer, changes: list[float]) -> list[float]:
    """Serves a feed over virtual time; returns when its messages were sent."""
    sent: list[float] = []
    waiting = list(changes)
    while waiting:
        now = max(waiting[0], sent[-1] if sent else 0.0)
        now += pacer.batch_delay(now)
        waiting = [at for at in waiting if at > now]
        pacer.note_checked(now, sent=True)
        sent.append(now)
    return sent


def test_single_changes_are_sent_almost_at_once() -> None:
    changes = [0.1 * n for n in range(1, 50)]
    assert [
        round(at - n, 6) for n, at in zip(changes, send(FeedPacer(0), changes), strict=True)
    ] == [BATCH] * len(changes)


def test_a_flood_of_any_rate_costs_only_a_few_messages_a_second() -> None:
    for a_second in (100, 1_000, 10_000):
        sent = send(FeedPacer(0), [n / a_second for n in range(10 * a_second)])
        settled = [at for at in sent if at >= 2]
        assert 1 < len(settled) / 8 <= 1.1 / MAX_BATCH, a_second


def test_the_wait_doubles_in_a_flood_and_starts_over_after_a_quiet_moment() -> None:
    pacer = FeedPacer(0)
    now = 1.0
    waits = []
    for _ in range(8):
        waits.append(pacer.batch_delay(now))
        now += waits[-1]
        pacer.note_checked(now, sent=True)
    assert waits == [BATCH, 0.01, 0.02, 0.04, 0.08, 0.16, MAX_BATCH, MAX_BATCH]
    assert pacer.batch_delay(now + MAX_BATCH) == BATCH


def test_changes_that_are_not_sent_do_not_put_off_the_heartbeat() -> None:
    pacer = FeedPacer(0, Ticks(0))
    for step in range(9):
        pacer.note_checked(step / 10, sent=False)
    assert pacer.until_heartbeat(0.75) == 1.25
    assert pacer.until_heartbeat(5) == 0
    pacer.note_heartbeat(5)
    assert pacer.until_heartbeat(5) == HEARTBEAT


def test_heartbeats_of_all_feeds_are_sent_at_the_same_times() -> None:
    pacers = [FeedPacer(0, Ticks(0.25)) for _ in range(3)]
    for at, pacer in zip((5.0, 5.3, 6.1), pacers, strict=True):
        pacer.note_checked(at, sent=True)
    assert [6.1 + pacer.until_heartbeat(6.1) for pacer in pacers] == [6.25, 7.25, 7.25]


@pytest.mark.parametrize("server_uptime", [12.0, 4711.3])
def test_a_watcher_gets_the_heartbeats_of_all_servers_at_one_of_its_ticks(
    server_uptime: float,
) -> None:
    ticks, uptime, wall = Ticks(0.3), 100.9, 1_800_000_000.123
    for later in (0.0, 0.7, 1.2, 5.9):
        # Feeds are opened at different times, from machines that started at different times.
        phase = heartbeat_phase(uptime + later, wall + later, ticks)
        served_by = heartbeat_ticks(phase, server_uptime + later, wall + later)
        pacer = FeedPacer(server_uptime, served_by)
        pacer.note_checked(server_uptime + later, sent=True)
        at = uptime + later + pacer.until_heartbeat(server_uptime + later)
        assert (at - 0.3) % HEARTBEAT == pytest.approx(0, abs=0.002) or (
            at - 0.3
        ) % HEARTBEAT == pytest.approx(HEARTBEAT, abs=0.002)


def test_a_phase_out_of_range_is_a_phase_too() -> None:
    ticks = heartbeat_ticks(2**32 - 1, 50.0, 1_800_000_000.0)
    assert 50 < ticks.after(50.0, HEARTBEAT) <= 50 + HEARTBEAT + 0.05


def test_a_watcher_that_asks_for_no_phase_gets_the_ticks_of_the_server() -> None:
    assert heartbeat_ticks(None, 50.0, 1_800_000_000.0) is PROCESS_TICKS


def test_a_heartbeat_is_no_change() -> None:
    pacer = FeedPacer(0)
    pacer.note_checked(0, sent=True)
    pacer.note_heartbeat(1)
    assert pacer.batch_delay(1.001) == BATCH
