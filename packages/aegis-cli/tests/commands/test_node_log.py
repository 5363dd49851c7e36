"""What the log of a node tells an operator when another one dies."""

import json
import signal
from datetime import datetime


def test_a_killed_node_is_one_warning_and_every_line_is_json(aegis) -> None:
    seed, address = aegis.node("seed", "--log-format", "json")
    victim, _ = aegis.node("orders-1", "--join", address)
    seed.stderr.until("orders-1 joined")
    aegis.node("orders-2", "--join", address)  # meanwhile the seed hears of the victim
    seed.stderr.until("orders-2 joined")
    victim.signal(signal.SIGKILL)
    seed.stderr.until("orders-1 failed")
    seed.signal(signal.SIGTERM)
    assert seed.wait() == 0
    lines = [*seed.stderr.seen, *seed.stderr.rest().splitlines()]
    found = [json.loads(line) for line in lines]  # nothing of gRPC's core is between them
    for line in found:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in ("INFO", "WARNING", "ERROR")
        assert line["logger"].startswith("aegis")
    about = [line for line in found if "orders-1" in line["message"]]
    assert [line["message"] for line in about if "failed" in line["message"]] == ["orders-1 failed"]
    assert [line["message"] for line in about if line["level"] != "INFO"] == ["orders-1 failed"]
