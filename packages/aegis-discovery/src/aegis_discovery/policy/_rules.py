"""Rules about calls and about providers, and the decisions of a policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

from aegis_discovery.errors import PolicyError
from aegis_discovery.policy._services import NAMED_SERVICES, OPEN_SERVICES


@dataclass(frozen=True, slots=True)
class Subject:
    """The caller or provider that a decision is about.

    Attributes:
        id: The node id that its certificate proves.
        type: The type in its record; None for clients, which have no record. The node itself
            chooses it, so any member of the mesh can claim any type.
        trust_domain: The trust domain in its certificate; None if it has none.
        vouched_by: The node that vouches for a provider that signs nothing itself. Then nothing
            proves its id: the voucher may have made it up.
    """

    id: str
    type: str | None = None
    trust_domain: str | None = None
    vouched_by: str | None = None

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule that allows something if all of its conditions hold.

    A condition is a list of patterns, one of which must match the whole text. `*` matches any
    number of characters, including none; every other character matches itself.

    Attributes:
        services: The services that the rule is about.
        ids: Node ids of the callers or providers.
        types: Their types.
        trust_domains: Their trust domains.
        line: The line of the policy file; 0 for a rule in code.
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
                'no node is named: give ids, types or trust_domains, such as ids=["*"]'
            )

    @classmethod
    def conditions(cls) -> tuple[str, ...]:
        """The names of the conditions that such a rule may have."""
        return tuple(item.name for item in fields(cls) if item.name != "line")

    def _subject_mismatch(self, subject: Subject) -> str | None:
        if self.ids and not _matches(self.ids, subject.id):
            return "other ids"
        if self.types and not (subject.type is not None and _matches(self.types, subject.type)):
            return "other types" if subject.type is not None else "types, but no type is known"
        domain = subject.trust_domain
        if self.trust_domains and not (domain is not None and _matches(self.trust_domains, domain)):
            return "other trust domains"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRule(Rule):
    """Allows callers to call methods of gRPC services.

    Attributes:
        services: Full names of gRPC services, such as `shop.v1.Orders`.
        methods: Names of methods, such as `Cancel`; all methods by default.
    """

    methods: Sequence[str] = ()

    def mismatch(self, subject: Subject, service: str, method: str) -> str | None:
        """Returns which condition does not hold; None if the rule allows it."""
        if not _matches(self.services, service):
            return "other services"
        if service in NAMED_SERVICES and service not in self.services:
            return "services by a pattern, and this one must be named in full"
        if service in NAMED_SERVICES and not self.ids:
            return "no ids, which this service asks for"
        if self.methods and not _matches(self.methods, method):
            return "other methods"
        return self._subject_mismatch(subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvideRule(Rule):
    """Allows nodes to provide services of the mesh.

    Attributes:
        services: `name` for all versions of a service, or `name/version`.
        vouched_by: Ids of the nodes whose word is enough for the id of a provider that signs
            nothing itself. The rule is for such providers then, and without it for no such one.
    """

    vouched_by: Sequence[str] = ()

    def mismatch(self, subject: Subject, service: str, version: str) -> str | None:
        """Returns which condition does not hold; None if the rule allows it."""
        if not (
            _matches(self.services, service) or _matches(self.services, f"{service}/{version}")
        ):
            return "other services"
        voucher = subject.vouched_by
        if voucher is None and self.vouched_by:
            return "nodes that sign nothing"
        if voucher is not None and not _matches(self.vouched_by, voucher):
            return "other vouchers" if self.vouched_by else "nodes that sign their records"
        return self._subject_mismatch(subject)


OWN_POLICY = "the node's own policy"
PUBLISHED_POLICY = "the published policy"


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision of a policy about one call or provider.

    Attributes:
        allowed: Whether it is allowed.
        rule: The first rule that allows it; None if no rule does, or none is needed.
        reason: The rule that allows it, or why each rule does not. It is for operators; the
            refused caller must not see it.
    """

    allowed: bool
    rule: Rule | None
    reason: str

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class Policy:
    """A list of rules that allow; everything else is denied.

    Attributes:
        call: Rules about calls of methods.
        provide: Rules about providers of services.
        published: The policy of the mesh, if this is a node's own one beside it: something is
            allowed only if both allow it. See `combined`.
    """

    call: Sequence[CallRule] = ()
    provide: Sequence[ProvideRule] = ()
    published: Policy | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "call", tuple(self.call))
        object.__setattr__(self, "provide", tuple(self.provide))

    @property
    def depends_on_caller_type(self) -> bool:
        """Whether a decision about a call can depend on the caller's type."""
        published = self.published is not None and self.published.depends_on_caller_type
        return published or any(rule.types for rule in self.call)

    def may_call(self, caller: Subject, service: str, method: str) -> Decision:
        """Decides whether a caller may call a method of a gRPC service."""
        if service in OPEN_SERVICES:
            return Decision(True, None, "every member of the mesh may call it, whatever the rules")
        own = _decide("call", self.call, caller, service, method)
        if self.published is None:
            return own
        return _both(own, self.published.may_call(caller, service, method))

    def may_provide(self, node: Subject, service: str, version: str) -> Decision:
        """Decides whether calls of a service may go to a node that declares it."""
        own = _decide("provide", self.provide, node, service, version)
        if self.published is None:
            return own
        return _both(own, self.published.may_provide(node, service, version))


def combined(own: Policy | None, published: Policy | None) -> Policy | None:
    """A node's own policy and that of its mesh as one, which allows what both allow.

    None is no policy, which allows everything. So a node's own policy can only be stricter.
    """
    if own is None or published is None:
        return own or published
    return replace(own, published=published)


def _both(own: Decision, published: Decision) -> Decision:
    if not own:
        return Decision(False, None, f"{OWN_POLICY}: {own.reason}")
    if not published:
        return Decision(False, None, f"{PUBLISHED_POLICY}: {published.reason}")
    reason = f"{OWN_POLICY}: {own.reason}; {PUBLISHED_POLICY}: {published.reason}"
    return Decision(True, own.rule, reason)


def _decide(
    kind: str,
    rules: Sequence[CallRule | ProvideRule],
    subject: Subject,
    service: str,
    method_or_version: str,
) -> Decision:
    reasons = []
    for number, rule in enumerate(rules, 1):
        label = f"{kind} rule {number}" + (f" (line {rule.line})" if rule.line else "")
        mismatch = rule.mismatch(subject, service, method_or_version)
        if mismatch is None:
            return Decision(True, rule, f"{label} allows it")
        reasons.append(f"{label} is for {mismatch}")
    return Decision(False, None, "; ".join(reasons) or f"there is no {kind} rule at all")


def _matches(patterns: Iterable[str], text: str) -> bool:
    return any(_matches_one(pattern, text) for pattern in patterns)


def _matches_one(pattern: str, text: str) -> bool:
    """Takes time linear in the text, which a hostile caller may have chosen."""
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


_NOT_IN_PATTERNS = frozenset("?[]{}\\")


def _check_pattern(name: str, pattern: str) -> None:
    if not pattern:
        raise PolicyError(f'{name} has an empty pattern; "*" matches anything')
    for character in pattern:
        if character in _NOT_IN_PATTERNS or not character.isprintable() or character.isspace():
            raise PolicyError(
                f"{name} has {character!r} in {pattern!r}; only * is special, and matches anything"
            )
