"""Lists the texts of errors in a page, as the sources have them.

A line `<!-- errors: aegis_certs -->` is replaced by one section for each class of error that the
package raises, with every text. A part that is known only when the error happens is `…`.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PACKAGES = Path(__file__).resolve().parents[2] / "packages"
UNKNOWN = "…"
MAX_TEXTS = 24  # of one expression: what an argument may be, times what another may be
MAX_DEPTH = 8

# Errors of the arguments of commands, and answers to calls.
OTHERS = ("click.UsageError", "click.BadParameter", "click.ClickException")
ANSWERS = ("Rejection", "RequestRefusedError")

_ERRORS = re.compile("Error\\(|Rejection\\(|click|raise ")
_MARKER = re.compile(r"^<!-- errors: (?P<package>\w+) -->$", re.MULTILINE)
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Scope: TypeAlias = Mapping[str, list[ast.expr]]
Known: TypeAlias = Mapping[str, list[str]]


def setup(app: Sphinx) -> dict[str, bool]:
    """Expands the markers when Sphinx reads a page."""
    app.connect("source-read", _expand)
    return {"parallel_read_safe": True}


def _expand(_app: Sphinx, _page: str, source: list[str]) -> None:
    if _MARKER.search(source[0]):
        source[0] = _MARKER.sub(lambda marker: _section(marker["package"]), source[0])


def _section(package: str) -> str:
    """Returns the Markdown of a package's errors."""
    lines = []
    for name, found in sorted(texts_of(package).items()):
        lines += [f"### {name}", "", *(f"- `` {text} ``" for text in sorted(found)), ""]
    return "\n".join(lines)


def texts_of(package: str) -> dict[str, set[str]]:
    """Returns the texts that a package raises its errors with, by the name of the class."""
    classes = {
        statement.name: statement
        for file in sorted(PACKAGES.glob("*/src/*/errors.py"))
        for statement in ast.parse(file.read_text()).body
        if isinstance(statement, ast.ClassDef)
    }
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted(PACKAGES.glob(f"*/src/{package}/**/*.py")):
        if "_pb2" in file.name or file.name == "errors.py":
            continue
        source = file.read_text()
        if not _ERRORS.search(source):
            continue
        module = _Module(ast.parse(source), classes)
        for name, text in module.errors():
            found[name].add(re.sub(f"{UNKNOWN}+", UNKNOWN, " ".join(text.split())))
    said = {name: {t for t in texts if re.search("[a-z]", t)} for name, texts in found.items()}
    return {name: texts for name, texts in said.items() if texts}


@dataclass
class _Module:
    """One file, and what its names may mean."""

    tree: ast.Module
    classes: Mapping[str, ast.ClassDef]
    functions: dict[str, Function] = field(default_factory=dict)
    constants: dict[str, list[ast.expr]] = field(default_factory=dict)
    _helpers: dict[str, list[ast.Call]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = _assigned(self.tree.body)
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                self.functions[node.name] = node

    def errors(self) -> Iterable[tuple[str, str]]:
        """Yields the class and a text of each error that the module makes."""
        yield from self._in(self.tree, {})

    def _in(self, node: ast.AST, scope: Scope) -> Iterable[tuple[str, str]]:
        if isinstance(node, Function):
            inner = _assigned(ast.walk(node))
            scope = {
                name: values for name, values in scope.items() if name not in _parameters(node)
            }
            scope |= inner
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
            node = ast.Call(node.exc, [], [])
        if isinstance(node, ast.Call):
            yield from self._made(node, scope)
        for _, children in ast.iter_fields(node):
            block = dict(scope)
            for child in children if isinstance(children, list) else [children]:
                if isinstance(child, ast.AST):
                    yield from self._in(child, block)
                if isinstance(child, ast.Assign | ast.AnnAssign):
                    block |= _assigned([child])  # what the next statements see
                elif isinstance(child, ast.stmt) and not isinstance(child, Function | ast.ClassDef):
                    for name, values in _assigned_in(child).items():
                        block[name] = [*block.get(name, ()), *values]

    def _made(self, call: ast.Call, scope: Scope) -> Iterable[tuple[str, str]]:
        """Yields the errors of a call: of the class itself, or by a function of this file."""
        name = ast.unparse(call.func)
        if name in self.classes or name in OTHERS or name in ANSWERS:
            for text in self._message(name, call, scope):
                yield name, text
        helper = self.functions.get(_name(call.func))
        if helper is not None and (makes := self._makes(helper)):
            given = dict(zip(_parameters(helper), call.args, strict=False))
            given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
            inner: Scope = {
                **_assigned_in(helper),
                **{
                    name: [ast.Constant(text) for text in self.texts(value, scope)]
                    for name, value in given.items()
                },
            }
            for made in makes:
                for text in self._message(ast.unparse(made.func), made, inner):
                    yield ast.unparse(made.func), text

    def _makes(self, function: Function) -> list[ast.Call]:
        """Returns the errors that a function makes from its arguments."""
        if function.name not in self._helpers:
            names = {*_parameters(function)}
            self._helpers[function.name] = [
                node
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
                and (ast.unparse(node.func) in self.classes or ast.unparse(node.func) in ANSWERS)
                and names & {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            ]
        return self._helpers[function.name]

    def _message(self, name: str, call: ast.Call, scope: Scope) -> Iterable[str]:
        if name in ANSWERS:
            if len(call.args) < 2:
                return
            code, text, *_ = call.args
            for parts in _product(self.texts(code, scope), self.texts(text, scope)):
                yield ": ".join(parts)
            return
        given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        yield from self._built(
            name,
            [self.texts(value, scope) for value in call.args],
            {key: self.texts(value, scope) for key, value in given.items()},
        )

    def _built(self, name: str, args: list[list[str]], given: Known) -> Iterable[str]:
        """Yields the messages of an error that is made with these arguments."""
        owner, parent = self.classes.get(name), ""
        while owner:
            parent = _name(owner.bases[0]) if owner.bases else ""
            if init := _constructor(owner):
                break
            owner = self.classes.get(parent)
        else:
            yield from args[0] if args else ()
            return
        known = dict(zip([a.arg for a in init.args.args[1:]], args, strict=False)) | dict(given)
        inner = _assigned_in(init)
        for node in ast.walk(init):
            if isinstance(node, ast.Call) and _name(node.func) == "__init__":
                passed = [self.texts(value, inner, known=known) for value in node.args]
                if "super" in ast.unparse(node.func):
                    yield from self._built(parent, passed, {})
                else:  # the constructor of another class, which takes `self` too
                    yield from passed[1]

    def texts(
        self,
        value: ast.expr,
        scope: Scope,
        depth: int = 0,
        known: Known | None = None,
    ) -> list[str]:
        """Returns what an expression may be, as far as the file says it."""

        def of(part: ast.expr) -> list[str]:
            return self.texts(part, scope, depth + 1, known)

        match value:
            case _ if depth > MAX_DEPTH:
                found = [UNKNOWN]
            case ast.Constant(value=str(text)):
                found = [text]
            case ast.JoinedStr(values=parts):
                found = ["".join(p) for p in _product(*map(of, parts))]
            case ast.FormattedValue(value=inner):
                found = of(inner)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                found = ["".join(p) for p in _product(of(left), of(right))]
            case ast.IfExp(body=body, orelse=orelse):
                # A part that may be missing is shown.
                found = [text for text in of(body) + of(orelse) if text] or [""]
            case ast.BoolOp(values=[first, *_]) if known:
                found = [text for text in of(first) if text] or of(value.values[-1])
            case ast.BoolOp(values=values):
                found = list(itertools.chain.from_iterable(map(of, values)))
            case ast.Name(id=name) if known and name in known:
                found = known[name]
            case ast.Name(id=name):
                options = scope.get(name) or self.constants.get(name) or []
                found = list(itertools.chain.from_iterable(map(of, options)))
            case ast.Call(func=ast.Name(id=name)) if name in self.functions:
                function = self.functions[name]
                inner_scope = _assigned_in(function)
                found = [
                    text
                    for node in ast.walk(function)
                    if isinstance(node, ast.Return) and node.value is not None
                    for text in self.texts(node.value, inner_scope, depth + 1)
                ]
            case _:
                found = []
        return list(dict.fromkeys(found))[:MAX_TEXTS] or [UNKNOWN]


def _product(*options: list[str]) -> Iterable[tuple[str, ...]]:
    return itertools.islice(itertools.product(*options), MAX_TEXTS)


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """Returns the values that are assigned to each name."""
    found: dict[str, list[ast.expr]] = defaultdict(list)
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name].append(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                found[name].append(value)
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                found[name].append(value)
    return found


def _parameters(function: Function) -> list[str]:
    """Returns the names of a function's parameters, without `self` and `cls`."""
    names = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
    return names[names[:1] in (["self"], ["cls"]) :]


@cache
def _assigned_in(node: ast.AST) -> dict[str, list[ast.expr]]:
    return _assigned(ast.walk(node))


def _name(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]


def _constructor(owner: ast.ClassDef) -> Function | None:
    return next((s for s in owner.body if isinstance(s, Function) and s.name == "__init__"), None)
