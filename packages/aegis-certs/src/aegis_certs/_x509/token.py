"""The token with which a machine enrols: a short-lived certificate as one line of text."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from aegis_certs._time import isoformat
from aegis_certs._x509.identity import Identity, enrolment_of
from aegis_certs._x509.issuer_address import MAX_ISSUERS, IssuerAddress
from aegis_certs._x509.keys import check_key, encode_key
from aegis_certs._x509.pem import (
    KeyPair,
    encode_certificates,
    parse_der_certificates,
    parse_private_key,
)
from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs._x509.trust import TrustBundle
from aegis_certs.errors import CertsError, InvalidRequestError, InvalidTokenError

MAX_TOKEN = 16 * 1024
"""Characters of a token at most."""

_PREFIX = "aegis1."
_ANY_VERSION = re.compile(r"aegis([0-9]{1,9})\.")
_MAX_CONTENT = 8 * MAX_TOKEN  # bytes when decompressed
_MAX_CAS = 32


@dataclass(frozen=True, repr=False, eq=False)
class Token:
    """What a machine needs to enrol: a bootstrap identity, whom to ask, and whom to trust.

    `CertificateAuthority.create_token` makes it. Whoever has it until its end can become the node
    that it names, so treat it as a password. Its repr shows no key.

    Attributes:
        key_pem: The private key of its certificate in PEM.
        certificate: The bootstrap certificate; see `enrolment_id_of`.
        bundle: The CAs that the issuers are checked against.
        issuers: The issuers to ask, the preferred one first.
    """

    key_pem: bytes
    certificate: x509.Certificate
    bundle: TrustBundle
    issuers: tuple[IssuerAddress, ...] = ()

    @property
    def node_id(self) -> str:
        """The node that it may enrol."""
        return self._enrolment.node_id

    @property
    def trust_domain(self) -> str:
        """The trust domain of the mesh."""
        return str(self._enrolment.trust_domain)

    @property
    def not_after(self) -> datetime:
        """Its end (UTC)."""
        return self.certificate.not_valid_after_utc

    @property
    def serial(self) -> str:
        """The serial number of its certificate in hexadecimal, by which the inventory knows it."""
        return f"{self.certificate.serial_number:x}"

    @cached_property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The bootstrap certificate, then the intermediates above it."""
        return self.bundle.chain_of(self.certificate)

    def tls(self) -> TLSConfig:
        """The values for a channel to an issuer.

        The result names the node that is to be enrolled; its certificate names none, so it proves
        no identity and its property `identity` raises IdentityError.
        """
        return TLSConfig(
            self.node_id, encode_certificates(self.chain), self.key_pem, self.bundle.pem
        )

    @cached_property
    def _enrolment(self) -> Identity:
        found = enrolment_of(self.certificate)
        if found is None:
            raise InvalidTokenError("its certificate may enrol no node")
        return found

    def encode(self) -> str:
        """The token as text: `aegis1.` and base64url.

        Raises:
            InvalidRequestError: It would have more than 16384 characters.
        """
        key, _ = parse_private_key(self.key_pem)
        content = {
            "key": _text(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())),
            "certificate": _text(self.certificate.public_bytes(Encoding.DER)),
            "bundle": [_text(ca.public_bytes(Encoding.DER)) for ca in self.bundle.certificates],
            "issuers": [list(issuer) for issuer in self.issuers],
        }
        data = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)
        text = _PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode()
        if len(text) > MAX_TOKEN:
            reason = f"the token would have {len(text)} characters, the limit is {MAX_TOKEN}"
            raise InvalidRequestError("trust bundle", repr(self.bundle), reason)
        return text

    __str__ = encode

    def __repr__(self) -> str:
        return f"Token(node_id={self.node_id!r}, not_after={isoformat(self.not_after)})"

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Reads what `encode` returned, with spaces around it or not.

        The key and the chain are checked. The dates are not: `not_after` says when it ends.

        Raises:
            InvalidTokenError: It is not a token, is too long, or is of a later format.
        """
        if len(text) > 2 * MAX_TOKEN:
            raise InvalidTokenError(f"it has more than {MAX_TOKEN} characters")
        if isinstance(text, bytes):
            text = text.decode("ascii", errors="replace")
        text = text.strip()
        if len(text) > MAX_TOKEN:
            raise InvalidTokenError(f"it has more than {MAX_TOKEN} characters")
        if not text.startswith(_PREFIX):
            raise InvalidTokenError(_other_format(text))
        # No error names its cause, which may have a part of the text.
        try:
            token = cls(*_parts(_decode(text.removeprefix(_PREFIX))))
            token.check()
        except InvalidTokenError:
            raise
        except CertsError:
            raise InvalidTokenError("one of its parts is not valid") from None
        except Exception:  # noqa: BLE001 - the parsers' errors have no common root
            raise InvalidTokenError("it is damaged, perhaps cut off") from None
        return token

    def check(self) -> None:
        """Checks that the parts belong together, whatever the time.

        Raises:
            InvalidTokenError: They do not.
        """
        _ = self._enrolment
        if not KeyPair((self.certificate,), *parse_private_key(self.key_pem)).matches:
            raise InvalidTokenError("its key does not belong to its certificate")
        if self.bundle.issuer_of(self.certificate) is None:
            raise InvalidTokenError("no CA in its trust bundle has signed its certificate")
        if self.bundle.trust_domain not in (None, self.trust_domain):
            raise InvalidTokenError("its trust bundle is of another trust domain")


def _other_format(text: str) -> str:
    if not text:
        return "it is empty"
    if (found := _ANY_VERSION.match(text)) is None:
        return f"a token begins with {_PREFIX}"
    return f"its format is version {int(found[1])}, and this program knows 1; use a newer program"


def _decode(text: str) -> Any:
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    stream = zlib.decompressobj()
    content = stream.decompress(data, _MAX_CONTENT)
    if not stream.eof or stream.unused_data:
        raise InvalidTokenError("it is damaged, perhaps cut off")
    return json.loads(content)


def _parts(
    content: dict[str, Any],
) -> tuple[bytes, x509.Certificate, TrustBundle, tuple[IssuerAddress, ...]]:
    """The fields of a token; any error means that it is no token."""
    key = load_der_private_key(_bytes(content["key"]), password=None)
    cas, issuers = content["bundle"], content["issuers"]
    if not 0 < len(cas) <= _MAX_CAS or len(issuers) > MAX_ISSUERS:
        raise InvalidTokenError("it has too many parts")
    (certificate,) = parse_der_certificates([_bytes(content["certificate"])])
    return (
        encode_key(check_key(key, "private key", None)),
        certificate,
        TrustBundle.from_pem(encode_certificates(parse_der_certificates(map(_bytes, cas)))),
        tuple(IssuerAddress.parse(*issuer) for issuer in issuers),
    )


def unique_issuers(issuers: Iterable[IssuerAddress]) -> tuple[IssuerAddress, ...]:
    """The first issuers, each once, and not more than a token can name."""
    return tuple(dict.fromkeys(issuers))[:MAX_ISSUERS]


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
