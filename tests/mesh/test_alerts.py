"""The alert rules, as Prometheus evaluates them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).parents[2] / "deploy/prometheus/aegis-alerts.yml"
CALLERS = 'aegis_client_attempt_ended_total{grpc_lb_backend_service="shop/v1",grpc_status='
PLAIN_CLIENTS = 'aegis_server_call_ended_total{grpc_lb_backend_service="web/v1",grpc_status='
SITUATION = [
    ('up{job="aegis",instance="a"}', "1x90", "0x90"),
    ('up{job="other",instance="a"}', "0x90", "0x90"),
    ('aegis_certificate_not_after_seconds{instance="a"}', "259200x90", "172800x90"),
    ('aegis_certificate_not_after_seconds{instance="b"}', "259200x90", "60x90"),
    ('aegis_nodes{status="failed",instance="a"}', "0x90", "1x90"),
    ('aegis_nodes{status="alive",instance="a"}', "3x90", "2x90"),
    (f'{CALLERS}"OK"}}', "0+100x90", "0+100x90"),
    (f'{CALLERS}"UNAVAILABLE"}}', "0+1x90", "0+20x90"),
    (f'{CALLERS}"NOT_FOUND"}}', "0+100x90", "0+1x90"),
    (f'{PLAIN_CLIENTS}"OK"}}', "0+100x90", "0x90"),
    (f'{PLAIN_CLIENTS}"INTERNAL"}}', "0+1x90", "0+1x90"),
    ('aegis_calls_denied_total{instance="a"}', "5x90", "0x88 1x2"),
    ('aegis_calls_shed_total{instance="a"}', "5x90", "0+1x90"),
    ('aegis_event_loop_lag_seconds{instance="a"}', "0.1x90", "0.6x90"),
    ('aegis_feed_lag_seconds{instance="a"}', "3x90", "30x90"),
]
"""Series of each minute: where all is well, and where everything is wrong."""
TWICE = {"AegisCertificateExpiresSoon", "AegisCallsFail"}  # for two nodes, and two services


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's prometheus")
def test_each_alert_fires_in_its_situation_and_none_where_all_is_well(tmp_path: Path) -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    firing = [
        {"labels": f'{{alertname="{name}"}}', "value": 1 + (name in TWICE)} for name in alerts
    ]
    tests = [
        {
            "input_series": [
                {"series": name, "values": values[bad]} for name, *values in SITUATION
            ],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "90m",
                    "exp_samples": firing if bad else [],
                }
            ],
        }
        for bad in (False, True)
    ]
    file = tmp_path / "tests.json"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "tests": tests}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
