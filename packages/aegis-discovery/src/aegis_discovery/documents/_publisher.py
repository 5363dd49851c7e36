"""Which documents an issuer signs now. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from aegis_certs import CertsError, IssuerAddress, TrustBundle, verify_authority
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_discovery.documents._codec import encode_bundle, encode_forgotten, encode_issuers
from aegis_discovery.documents._document import Document, DocumentKind, Forgotten
from aegis_discovery.documents._store import DocumentStore

FORGOTTEN_FOR = 26 * 3600.0
"""Seconds after which a forgotten life leaves the list: longer than any record can live."""

MAX_FORGOTTEN = 256
"""Lives that are forgotten at the same time; the oldest ones are dropped first."""

MAX_ISSUERS = 16
"""Issuers in the published list."""

_CAS = "cas"
_OWNED = (DocumentKind.BUNDLE, DocumentKind.POLICY)


@dataclass(frozen=True)
class AuthorityState:
    """What the directory of a CA says.

    Attributes:
        bundle: Its CAs, the issuing CA first.
        policy: The policy to publish, in TOML; None if there is none.
        issuers: Its issuers.
        forgotten: The lives of nodes to forget.
        drained: The lives of nodes that are to drain and end.
    """

    bundle: TrustBundle
    policy: bytes | None = None
    issuers: tuple[IssuerAddress, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()
    drained: tuple[Forgotten, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A document to sign.

    Attributes:
        kind: Its kind.
        content: Its content.
        sequence: Its sequence: more than that of the document that it replaces.
    """

    kind: DocumentKind
    content: bytes
    sequence: int


class DocumentPublisher:
    """Decides for one issuer, beside others with directories of their own.

    The trust bundle and the policy are published when they change in this directory. So what
    another issuer published later stays, although it differs. Lists are united with what is
    published. What is published is signed anew before its signer ends, whoever published it.

    Args:
        trust_domain: The trust domain of the mesh.
        published: What `published` returned when this issuer ran last.
    """

    def __init__(self, trust_domain: str, published: Mapping[str, str] | None = None) -> None:
        self._trust_domain = trust_domain
        self._published = dict(published or {})

    @property
    def published(self) -> Mapping[str, str]:
        """What this directory last published, by kind, to keep beside it."""
        return dict(self._published)

    def drafts(self, state: AuthorityState, store: DocumentStore, now: float) -> list[Draft]:
        """Returns what is to be signed at the time `now` (Unix seconds), in this order.

        Call `note_published` after it was signed and put into the store.
        """
        drafts = []
        for kind in (
            DocumentKind.BUNDLE,
            DocumentKind.DRAIN,
            DocumentKind.FORGET,
            DocumentKind.ISSUERS,
            DocumentKind.POLICY,
        ):
            held = store.get(kind)
            content = self._content(kind, state, store, held, now)
            if content is None and held is not None and self._ends(held, state.bundle, now):
                content = held.content
            if content is not None:
                sequence = max(round(now * 1000), held.sequence + 1 if held else 0)
                drafts.append(Draft(kind, content, sequence))
        return drafts

    def note_published(self, state: AuthorityState) -> None:
        """Records that the bundle and the policy of this state were published."""
        for kind in _OWNED:
            own = _own(kind, state)
            if own is not None:
                self._published[kind.value] = _digest(own)
        self._published[_CAS] = " ".join(sorted(map(_fingerprint, state.bundle.certificates)))

    def _content(
        self,
        kind: DocumentKind,
        state: AuthorityState,
        store: DocumentStore,
        held: Document | None,
        now: float,
    ) -> bytes | None:
        """Returns a content that is to be published; None if what is published may stay."""
        if kind is DocumentKind.ISSUERS:
            return _issuers(state, store)
        if kind is DocumentKind.FORGET:
            return _lives(state.forgotten, store.forgotten, now)
        if kind is DocumentKind.DRAIN:
            return _lives(state.drained, store.drained, now)
        own = _own(kind, state)
        if own is None:
            return None
        if held is not None and self._published.get(kind.value) == _digest(own):
            return None
        content = own if kind is DocumentKind.POLICY else self._bundle(state, store, now)
        return None if held is not None and held.content == content else content

    def _bundle(self, state: AuthorityState, store: DocumentStore, now: float) -> bytes:
        """Returns the own CAs, and the intermediate CAs of other issuers below the same roots."""
        own, before = state.bundle, self._published.get(_CAS, "").split()
        others = () if store.bundle is None else store.bundle.certificates
        below = [
            ca
            for ca in others
            if ca.subject != ca.issuer
            and own.issuer_of(ca) is not None
            and _fingerprint(ca) not in before  # this directory has retired it
            and ca.not_valid_after_utc.timestamp() > now
        ]
        return encode_bundle(TrustBundle(tuple(dict.fromkeys((*own.certificates, *below)))))

    def _ends(self, held: Document, bundle: TrustBundle, now: float) -> bool:
        """Whether who has no document yet could soon not verify this one."""
        try:
            signer = x509.load_der_x509_certificate(held.signed.signer)
            verify_authority(
                signer, bundle, self._trust_domain, at=datetime.fromtimestamp(now, UTC)
            )
        except (CertsError, ValueError):
            return True
        life = held.signer_until - signer.not_valid_before_utc.timestamp()
        return held.signer_until - now <= life / 3


def _own(kind: DocumentKind, state: AuthorityState) -> bytes | None:
    """Returns what this directory says itself, without what others add."""
    return encode_bundle(state.bundle) if kind is DocumentKind.BUNDLE else state.policy


def _issuers(state: AuthorityState, store: DocumentStore) -> bytes | None:
    own = {one.node_id: one for one in state.issuers}
    held = {one.node_id: one for one in store.issuers}
    gone = {one.node_id for one in (*state.forgotten, *store.forgotten)}
    wanted = {**held, **own}
    kept = [one for node_id, one in wanted.items() if node_id in own or node_id not in gone]
    kept = kept[-MAX_ISSUERS:]
    return None if {*kept} == {*held.values()} else encode_issuers(kept)


def _lives(wanted: tuple[Forgotten, ...], held: tuple[Forgotten, ...], now: float) -> bytes | None:
    since = (now - FORGOTTEN_FOR) * 1000
    own = {one for one in wanted if one.until > since}
    if own <= {*held}:
        return None
    lives = _newest(one for one in own.union(held) if one.until > since)
    return None if {*lives} == {*held} else encode_forgotten(lives)


def _newest(lives: Iterable[Forgotten]) -> list[Forgotten]:
    return sorted(lives, key=lambda one: one.until)[-MAX_FORGOTTEN:]


def _fingerprint(ca: x509.Certificate) -> str:
    return ca.fingerprint(hashes.SHA256()).hex()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
