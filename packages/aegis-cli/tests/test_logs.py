"""The formats of the log."""

import json
import logging
import re
import sys
from datetime import datetime, timedelta

import pytest
from aegis_cli._logs import JsonLines, TextLines


def record(message, *args, at=logging.WARNING, error=None, **extra):
    made = logging.makeLogRecord(
        {"name": "aegis.node", "levelno": at, "levelname": logging.getLevelName(at)}
    )
    made.msg, made.args, made.exc_info = message, args, error
    vars(made).update(extra)
    return made


def test_a_json_line_has_date_with_zone_level_logger_message_and_fields():
    line = JsonLines("orders-1#2").format(record("%s is here", "a", order="42"))
    found = json.loads(line)
    when = datetime.fromisoformat(found.pop("time"))
    assert when.utcoffset() == timedelta(0)
    assert abs(when - datetime.now(when.tzinfo)) < timedelta(minutes=1)
    assert found == {
        "level": "WARNING",
        "logger": "aegis.node",
        "message": "a is here",
        "node": "orders-1#2",
        "order": "42",
    }


@pytest.mark.parametrize("text", ["two\nlines", '"quotes" and \\', "\x1b[31mred", "\u2028 \u00e9"])
def test_any_message_is_one_line_of_json(text):
    line = JsonLines().format(record("%s", text))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == text


def test_an_error_is_in_the_same_line():
    try:
        raise ValueError("broken")
    except ValueError:
        line = JsonLines().format(record("failed", error=sys.exc_info()))
    assert len(line.splitlines()) == 1
    assert "ValueError: broken" in json.loads(line)["error"]


def test_fields_of_a_program_do_not_replace_ours():
    found = json.loads(JsonLines().format(record("real", time="never", level="none", logger="x")))
    assert found["time"] != "never"
    assert (found["level"], found["logger"]) == ("WARNING", "aegis.node")


def test_what_json_cannot_hold_is_text():
    assert json.loads(JsonLines().format(record("a", where=sys)))["where"].startswith("<module")


def test_a_text_line_has_date_with_zone_and_level():
    line = TextLines().format(record("%s failed", "a"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} WARNING a failed", line)
    assert "INFO" not in TextLines().format(record("%s left", "a", at=logging.INFO))
