"""The page on logs explains each line from WARNING on that the packages can write, and no other."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "logs.md"
SOURCES = sorted(
    path
    for path in ROOT.glob("packages/*/src/**/*.py")
    if re.search(r"_log\.|_log\(|logger\.|limiter", path.read_text())
)

LEVELS = {"warning": "WARNING", "error": "ERROR", "exception": "ERROR", "critical": "CRITICAL"}
PLACEHOLDER = re.compile(r"%(?:\.\d+)?[a-zA-Z]")
LOGGERS = {"store": "aegis.topology"}
"""The loggers of modules that log through the limiter of another one."""

Line = tuple[str, str, str]
"""A logger, a level and a text, with `…` in place of what differs."""


class Module:
    """The log calls of a module."""

    def __init__(self, path: Path) -> None:
        self._tree = ast.parse(path.read_text())
        self._name = path.stem
        self._parents = {
            child: node for node in ast.walk(self._tree) for child in ast.iter_child_nodes(node)
        }
        self.logger = next(
            (
                node.value.args[0].value
                for node in self._tree.body
                if isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and ast.unparse(node.value.func) == "logging.getLogger"
                and isinstance(node.value.args[0], ast.Constant)
            ),
            LOGGERS.get(path.stem, ""),
        )

    def lines(self) -> Iterator[Line]:
        """Yields what the module logs from WARNING on."""
        for call in ast.walk(self._tree):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            found = self._message(call)
            if found is not None:
                level, message = found
                for text in self._texts(message, self._function_of(call)):
                    yield self.logger, level, PLACEHOLDER.sub("…", text).replace("%%", "%")

    def _message(self, call: ast.Call) -> tuple[str, ast.expr] | None:
        """Returns the level and the message of a log call; None for other calls and levels."""
        assert isinstance(call.func, ast.Attribute)
        name, owner = call.func.attr, ast.unparse(call.func.value)
        if name in LEVELS and re.search(r"\blog(ger)?$", owner.replace("_log", "log")):
            return LEVELS[name], call.args[0]
        if name == "warn" and "limiter" in owner:
            return "WARNING", call.args[2]
        if name == "log_change":
            return self._level(call, call.args[3])
        if name == "log" and owner == "_log":
            return self._level(call, call.args[1])
        return None

    def _level(self, call: ast.Call, message: ast.expr) -> tuple[str, ast.expr] | None:
        """Returns the highest level that a call may have, and its message."""
        levels = [call.args[0]]
        if isinstance(levels[0], ast.Name):
            function = self._function_of(call)
            assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
            levels = [value for node in assigned for value in _assigned(node, levels[0].id)]
        names = set(re.findall(r"logging\.([A-Z]+)", " ".join(map(ast.unparse, levels))))
        assert names, ast.unparse(call)
        highest = max(names, key=lambda name: logging.getLevelNamesMapping()[name])
        return (highest, message) if highest not in ("DEBUG", "INFO") else None

    def _function_of(self, node: ast.AST) -> ast.AST:
        while node in self._parents and not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef
        ):
            node = self._parents[node]
        return node

    def _texts(self, node: ast.expr, function: ast.AST) -> list[str]:
        """Returns all texts that an expression can be."""
        if isinstance(node, ast.Constant):
            return [node.value]
        if isinstance(node, ast.IfExp):
            return self._texts(node.body, function) + self._texts(node.orelse, function)
        assert isinstance(node, ast.Name), f"{self._name}: {ast.unparse(node)} is no text"
        found = [
            value
            for assigned in ast.walk(function)
            if isinstance(assigned, ast.Assign)
            for value in _assigned(assigned, node.id)
        ]
        before = [value for value in found if value.lineno <= node.lineno]
        if before:
            # A name is assigned anew for another line; the branches of one line are close together.
            last = max(value.lineno for value in before)
            nearest = [value for value in before if last - value.lineno < 12]
            return [text for value in nearest for text in self._texts(value, function)]
        constants = [
            value
            for assigned in self._tree.body
            if isinstance(assigned, ast.Assign)
            for value in _assigned(assigned, node.id)
        ]
        if constants:
            return self._texts(constants[-1], function)
        return self._arguments(node.id, function)

    def _arguments(self, parameter: str, function: ast.AST) -> list[str]:
        """Returns the texts that the callers of a function give to a parameter."""
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef), parameter
        names = [argument.arg for argument in function.args.args]
        at = names.index(parameter) - (names[0] == "self")
        return [
            text
            for call in ast.walk(self._tree)
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(function.name)
            for text in self._texts(call.args[at], self._function_of(call))
        ]


def _assigned(node: ast.Assign, name: str) -> Iterator[ast.expr]:
    for target in node.targets:
        if isinstance(target, ast.Name) and target.id == name:
            yield node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for part, value in zip(target.elts, node.value.elts, strict=True):
                if isinstance(part, ast.Name) and part.id == name:
                    yield value


def written() -> set[Line]:
    return {
        line for path in SOURCES if path.name != "log_limiter.py" for line in Module(path).lines()
    }


def explained() -> list[Line]:
    found, logger = [], ""
    for line in PAGE.read_text().splitlines():
        if heading := re.fullmatch(r"## `([\w.]+)`", line):
            logger = heading[1]
        elif row := re.match(r"\| (WARNING|ERROR) \| `` (.+?) `` \| .+ \| .+ \|$", line):
            found.append((logger, row[1], row[2]))
    return found


def test_the_page_explains_every_line_and_no_other():
    rows = explained()
    assert sorted(written() - set(rows)) == []
    assert sorted(set(rows) - written()) == []
    assert len(rows) == len(set(rows))
