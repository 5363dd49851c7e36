"""Policies in TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from aegis_discovery.errors import PolicyError
from aegis_discovery.policy._rules import CallRule, Policy, ProvideRule, Rule

R = TypeVar("R", bound=Rule)

_LINE = re.compile(r"\(at (?:line (\d+), column \d+|end of document)\)")


def parse_policy(text: str, path: str | Path = "") -> Policy:
    """Parses a policy in TOML.

    Args:
        text: The TOML text.
        path: The file to name in errors.

    Raises:
        PolicyError: It is not a valid policy; the error has the line and the reason.
    """
    import tomllib  # most programs read no policy

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _LINE.search(str(error))
        line = int((found and found[1]) or text.count("\n") + 1)
        reason = _LINE.sub("", str(error)).strip()
        raise PolicyError(f"it is not valid TOML: {reason}", path=path, line=line) from error
    unknown = sorted(document.keys() - {"call", "provide"})
    if unknown:
        raise PolicyError(
            f"{unknown[0]!r} is not known; a policy has [[call]] and [[provide]] only",
            path=path,
            line=_line_of(text, rf"(\[+\s*)?{re.escape(unknown[0])}\b"),
        )
    return Policy(
        _rules("call", CallRule, document.get("call", []), text, path),
        _rules("provide", ProvideRule, document.get("provide", []), text, path),
    )


def load_policy(path: str | Path) -> Policy:
    """Reads a policy from a TOML file.

    Raises:
        PolicyError: The file cannot be read, or is not a valid policy.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"cannot be read: {error.strerror or error}", path=path) from error
    except UnicodeDecodeError as error:
        raise PolicyError("it is not text in UTF-8", path=path) from error
    return parse_policy(text, path)


def _rules(kind: str, make: type[R], tables: Any, text: str, path: str | Path) -> list[R]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        line = _line_of(text, rf"(\[\s*)?{kind}\b")
        raise PolicyError(f"write [[{kind}]] above each {kind} rule", path=path, line=line)
    begins = [
        text.count("\n", 0, found.start()) + 1
        for found in re.finditer(rf"^[ \t]*\[\[\s*{kind}\s*\]\]", text, re.MULTILINE)
    ]
    rules = []
    for index, table in enumerate(tables):
        # The rules of one inline list are not on lines of their own.
        line = begins[index] if len(begins) == len(tables) else 0
        try:
            rules.append(_rule(make, table, line))
        except PolicyError as error:
            reason = f"{kind} rule {index + 1}: {error.reason}"
            raise PolicyError(reason, path=path, line=line) from error
    return rules


def _rule(make: type[R], table: Mapping[str, Any], line: int) -> R:
    unknown = sorted(table.keys() - {*make.conditions()})
    if unknown:
        known = ", ".join(make.conditions())
        raise PolicyError(f"{unknown[0]!r} is not known; it can have {known}")
    for name, value in table.items():
        if not isinstance(value, list):
            raise PolicyError(f'{name} must be a list of patterns, such as ["orders-*"]')
        if not value:
            raise PolicyError(f"{name} is empty, so nothing matches; leave it out, or name some")
    return make(**{"services": (), **table}, line=line)


def _line_of(text: str, beginning: str) -> int:
    found = re.search(rf"^\s*{beginning}", text, re.MULTILINE)
    return text.count("\n", 0, found.end()) + 1 if found else 0
