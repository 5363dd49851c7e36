from __future__ import annotations

from aegis_discovery.feed import BATCH, HEARTBEAT, MAX_BATCH, Pace


def send(pace: Pace, news: list[float]) -> list[float]:
    """Serves a feed over virtual time; returns when its messages were sent."""
    sent: list[float] = []
    waiting = list(news)
    while waiting:
        now = max(waiting[0], sent[-1] if sent else 0.0)
        now += pace.batch(now)
        waiting = [at for at in waiting if at > now]
        pace.looked(now, sent=True)
        sent.append(now)
    return sent


def test_single_changes_are_sent_almost_at_once() -> None:
    news = [0.1 * n for n in range(1, 50)]
    assert [round(at - n, 6) for n, at in zip(news, send(Pace(0), news), strict=True)] == [
        BATCH
    ] * len(news)


def test_a_flood_costs_a_few_messages_a_second_however_dense_it_is() -> None:
    for a_second in (100, 1_000, 10_000):
        sent = send(Pace(0), [n / a_second for n in range(10 * a_second)])
        settled = [at for at in sent if at >= 2]
        assert 1 < len(settled) / 8 <= 1.1 / MAX_BATCH, a_second


def test_the_wait_doubles_in_a_flood_and_starts_over_after_a_quiet_moment() -> None:
    pace = Pace(0)
    now = 1.0
    waits = []
    for _ in range(8):
        waits.append(pace.batch(now))
        now += waits[-1]
        pace.looked(now, sent=True)
    assert waits == [BATCH, 0.01, 0.02, 0.04, 0.08, 0.16, MAX_BATCH, MAX_BATCH]
    assert pace.batch(now + MAX_BATCH) == BATCH


def test_changes_that_are_not_sent_do_not_put_off_the_heartbeat() -> None:
    pace = Pace(0)
    for step in range(9):
        pace.looked(step / 10, sent=False)
    assert pace.until_heartbeat(0.75) == 0.25
    assert pace.until_heartbeat(5) == 0
    pace.beat(5)
    assert pace.until_heartbeat(5) == HEARTBEAT
    pace.looked(5.5, sent=True)
    assert pace.until_heartbeat(5.5) == HEARTBEAT


def test_a_heartbeat_is_no_news() -> None:
    pace = Pace(0)
    pace.looked(0, sent=True)
    pace.beat(1)
    assert pace.batch(1.001) == BATCH
