"""Who may call what, and who may provide what: rules, and the decisions that come of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aegis_discovery.errors import PolicyError

OPEN_SERVICES = frozenset(
    (
        "aegis.MeshService",
        "aegis.mesh.v1.Mesh",
        "aegis.mesh.v1.Introspection",
        "grpc.health.v1.Health",
    )
)
"""What every member of a mesh may call: without it there is no mesh to have a policy."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a decision is about.

    Attributes:
        id: The node id that its certificate proves.
        type: As its record in the topology says; None where it has none, as clients do. It is
            what the node says of itself: any member of the mesh can claim any type.
        trust_domain: Of its certificate; None where that names none.
    """

    id: str
    type: str | None = None
    trust_domain: str | None = None

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Whom and what a rule allows: each condition that is given must hold.

    A condition is a list of patterns, one of which must fit. `*` stands for any characters, also
    none; everything else stands for itself, and the whole text must fit.

    Attributes:
        services: What it is about.
        ids: Node ids of whom it is about.
        types: Their types.
        trust_domains: Their trust domains.
        line: Of the file that it was read from; 0 where it came from none.
    """

    services: Sequence[str]
    ids: Sequence[str] = ()
    types: Sequence[str] = ()
    trust_domains: Sequence[str] = ()
    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        for name in self.conditions():
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(item, str) for item in given):
                raise PolicyError(f'{name} must be a list of patterns, such as ["orders-*"]')
            object.__setattr__(self, name, tuple(given))
            for pattern in given:
                _check_pattern(name, pattern)
        if not self.services:
            raise PolicyError('services is missing: name what this rule allows, such as ["*"]')
        if not (self.ids or self.types or self.trust_domains):
            raise PolicyError(
                'nobody is named: give ids, types or trust_domains, such as ids=["*"]'
            )

    @classmethod
    def conditions(cls) -> tuple[str, ...]:
        """The names of what a rule can ask for."""
        return ("services", "ids", "types", "trust_domains")

    def _mismatch(self, subject: Subject) -> str | None:
        if self.ids and not _fits(self.ids, subject.id):
            return "other ids"
        if self.types and not (subject.type is not None and _fits(self.types, subject.type)):
            return "other types" if subject.type is not None else "types, and this one has none"
        domain = subject.trust_domain
        if self.trust_domains and not (domain is not None and _fits(self.trust_domains, domain)):
            return "other trust domains"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRule(Rule):
    """Allows callers to call methods of gRPC services.

    Attributes:
        services: Full names of gRPC services, such as `shop.v1.Orders`.
        methods: Names of methods, such as `Cancel`; all where none is given.
    """

    methods: Sequence[str] = ()

    @classmethod
    def conditions(cls) -> tuple[str, ...]:
        """The names of what a rule can ask for."""
        return ("services", "ids", "types", "trust_domains", "methods")

    def mismatch(self, subject: Subject, service: str, method: str) -> str | None:
        """Says what this rule is about where it is not about this; None where it allows it."""
        if not _fits(self.services, service):
            return "other services"
        if self.methods and not _fits(self.methods, method):
            return "other methods"
        return self._mismatch(subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvideRule(Rule):
    """Allows nodes to provide services of the mesh.

    Attributes:
        services: `name` for all its versions, or `name/version`.
    """

    def mismatch(self, subject: Subject, service: str, version: str) -> str | None:
        """Says what this rule is about where it is not about this; None where it allows it."""
        if not (_fits(self.services, service) or _fits(self.services, f"{service}/{version}")):
            return "other services"
        return self._mismatch(subject)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says to one question.

    Attributes:
        allowed: Its answer.
        rule: The first rule that allows it; None where none does, or none is needed.
        reason: Which rule that is or, for each rule, why it is another one; for operators, and
            not for who was refused.
    """

    allowed: bool
    rule: Rule | None
    reason: str

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules that allow; what none of them allows is denied.

    Attributes:
        call: Who may call which methods.
        provide: Which nodes may provide which services.
    """

    call: Sequence[CallRule] = ()
    provide: Sequence[ProvideRule] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "call", tuple(self.call))
        object.__setattr__(self, "provide", tuple(self.provide))

    @property
    def depends_on_caller_type(self) -> bool:
        """Whether a decision about a call can depend on the caller's type."""
        return any(rule.types for rule in self.call)

    def may_call(self, caller: Subject, service: str, method: str) -> Decision:
        """Decides about a call of a method of a gRPC service."""
        if service in OPEN_SERVICES:
            return Decision(True, None, "every member of the mesh may call it, whatever the rules")
        mismatches = []
        for number, rule in enumerate(self.call, 1):
            mismatch = rule.mismatch(caller, service, method)
            if mismatch is None:
                return Decision(True, rule, f"{_label('call', number, rule)} allows it")
            mismatches.append(f"{_label('call', number, rule)} is for {mismatch}")
        return _denial("call", mismatches)

    def may_provide(self, node: Subject, service: str, version: str) -> Decision:
        """Decides whether a node that says that it provides a service is chosen for it."""
        mismatches = []
        for number, rule in enumerate(self.provide, 1):
            mismatch = rule.mismatch(node, service, version)
            if mismatch is None:
                return Decision(True, rule, f"{_label('provide', number, rule)} allows it")
            mismatches.append(f"{_label('provide', number, rule)} is for {mismatch}")
        return _denial("provide", mismatches)


def split_method(path: str) -> tuple[str, str]:
    """Splits a path of the wire, `/package.Service/Method`, into service and method."""
    service, _, method = path.removeprefix("/").rpartition("/")
    return service, method


def _denial(kind: str, mismatches: Sequence[str]) -> Decision:
    return Decision(False, None, "; ".join(mismatches) or f"there is no {kind} rule at all")


def _label(kind: str, number: int, rule: Rule) -> str:
    return f"{kind} rule {number}" + (f" (line {rule.line})" if rule.line else "")


def _fits(patterns: Iterable[str], text: str) -> bool:
    return any(_fits_one(pattern, text) for pattern in patterns)


def _fits_one(pattern: str, text: str) -> bool:
    """Compares in time linear in the text: it is a caller's, who may have chosen it to hurt."""
    first, *others = pattern.split("*")
    if not others:
        return text == pattern
    *middle, last = others
    if not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return at <= end


_FOREIGN = frozenset("?[]{}\\")


def _check_pattern(name: str, pattern: str) -> None:
    if not pattern:
        raise PolicyError(f'{name} has an empty pattern; "*" stands for anything')
    for character in pattern:
        if character in _FOREIGN or not character.isprintable() or character.isspace():
            raise PolicyError(
                f"{name} has {character!r} in {pattern!r}; only * is special, and means anything"
            )
