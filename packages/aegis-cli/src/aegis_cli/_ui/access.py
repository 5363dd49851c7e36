"""Who may see the page: the browser that opened its address first. Pure."""

from __future__ import annotations

import hmac
import secrets
from http import HTTPStatus

from aegis_cli._ui.http import Request, Response, refused

_BYTES = 32  # 256 bits


class Access:
    """Lets one browser in, for a token that is used once, and refuses what it did not ask for.

    Args:
        host: `HOST:PORT` of the page, as browsers write it.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._origin = f"http://{host}"
        self._token: str | None = secrets.token_urlsafe(_BYTES)
        self._used = self._token
        self._session = secrets.token_urlsafe(_BYTES)
        # Cookies know no ports, so that of another page on this machine must have another name.
        self._cookie = f"aegis-ui-{host.rpartition(':')[2]}"

    @property
    def address(self) -> str:
        """The address to open, with the token as long as nobody has used it."""
        return f"{self._origin}/" + (f"?token={self._token}" if self._token else "")

    def refusal(self, request: Request) -> Response | None:
        """Why a request is refused whoever sends it; None if it is not.

        A page of another site, also one whose name was made to point to this machine, sends
        another Host, Origin or Sec-Fetch-Site.
        """
        if request.all("Host") != [self._host]:
            return refused(
                HTTPStatus.MISDIRECTED_REQUEST, f"This page is at {self._origin}/ and nowhere else."
            )
        if request.method != "GET":
            return refused(HTTPStatus.METHOD_NOT_ALLOWED, "This page changes nothing: use GET.")
        if any(origin != self._origin for origin in request.all("Origin")):
            return refused(HTTPStatus.FORBIDDEN, "Another page may not read this one.")
        if any(site not in ("none", "same-origin") for site in request.all("Sec-Fetch-Site")):
            return refused(
                HTTPStatus.FORBIDDEN,
                "A link of another page does not open this one: paste its address into the "
                "address bar.",
            )
        return None

    def is_known(self, request: Request) -> bool:
        """Whether it is from the browser that used the token."""
        if self._token is not None:
            return False
        return any(_equal(one, self._session) for one in request.cookies(self._cookie))

    def exchange(self, token: str) -> Response | None:
        """Takes the token, and gives a cookie for it; None if it is wrong or used already."""
        if self._token is None or not _equal(token, self._token):
            return None
        self._token = None
        cookie = f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict"
        headers = {"Location": "/", "Set-Cookie": cookie}
        return Response(HTTPStatus.SEE_OTHER, headers=headers)

    def is_used(self, token: str) -> bool:
        """Whether this is the right token, but somebody has used it already."""
        return self._token is None and self._used is not None and _equal(token, self._used)


def _equal(a: str, b: str) -> bool:
    """Compares secrets in a time that does not depend on where they differ."""
    return hmac.compare_digest(a.encode(errors="replace"), b.encode())
