"""Who may read the page: one browser, at one address, for its own requests."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest
from aegis_cli._ui.access import Access
from aegis_cli._ui.http import BadRequestError, Request, parse

HOST = "127.0.0.1:7070"


def request(path: str = "/", *, method: str = "GET", **headers: str) -> Request:
    fields = {"Host": HOST, **{name.replace("_", "-"): text for name, text in headers.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
    return parse("\r\n".join([*lines, "", ""]).encode())


def token_of(access: Access) -> str:
    return access.address.partition("?token=")[2]


def cookie_of(access: Access) -> str:
    exchanged = access.exchange(token_of(access))
    assert exchanged is not None
    return exchanged.headers["Set-Cookie"].partition(";")[0]


def test_a_token_is_exchanged_once_for_a_cookie_that_scripts_cannot_read() -> None:
    access = Access(HOST)
    token = token_of(access)
    assert len(token) == 43, "256 bits"
    assert access.exchange("") is access.exchange(token[:-1]) is access.exchange("ü") is None
    exchanged = access.exchange(token)
    assert exchanged is not None
    assert (exchanged.status, exchanged.headers["Location"]) == (HTTPStatus.SEE_OTHER, "/")
    pattern = r"aegis-ui-7070=[\w-]{43}; Path=/; HttpOnly; SameSite=Strict"
    assert re.fullmatch(pattern, exchanged.headers["Set-Cookie"])
    assert token not in exchanged.headers["Set-Cookie"]
    assert access.exchange(token) is None
    assert (access.is_used(token), access.is_used("x")) == (True, False)
    assert access.address == f"http://{HOST}/"


def test_only_the_cookie_of_this_page_counts() -> None:
    access = Access(HOST)
    assert not access.is_known(request(Cookie="aegis-ui-7070=None; aegis-ui-7070="))
    cookie = cookie_of(access)
    assert access.is_known(request(Cookie=cookie))
    assert access.is_known(request(Cookie=f'other="a=b; aegis-ui-7070=x; {cookie}'))
    for wrong in ("", "aegis-ui-7070", f"x{cookie}", f"{cookie}x", cookie.replace("70=", "71=")):
        assert not access.is_known(request(Cookie=wrong))
    assert not Access(HOST).is_known(request(Cookie=cookie))


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:7070"},
        {"Host": "localhost:7070"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:7071"},
        {"Host": f"{HOST}\r\nHost: evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:7071"},
        {"Origin": f"https://{HOST}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_what_another_page_sends_is_refused(headers: dict[str, str]) -> None:
    refused = Access(HOST).refusal(request(**headers))
    assert refused is not None
    assert refused.status in (HTTPStatus.FORBIDDEN, HTTPStatus.MISDIRECTED_REQUEST)


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS", "DELETE", "get"])
def test_the_page_changes_nothing(method: str) -> None:
    refused = Access(HOST).refusal(request(method=method))
    assert refused is not None
    assert refused.status is HTTPStatus.METHOD_NOT_ALLOWED


def test_what_the_page_sends_itself_is_answered() -> None:
    own = {"Origin": f"http://{HOST}", "Sec_Fetch_Site": "same-origin"}
    assert Access(HOST).refusal(request(**own)) is None
    assert Access(HOST).refusal(request(Sec_Fetch_Site="none")) is None
    assert Access("[::1]:7070").refusal(request(Host="[::1]:7070")) is None


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET / HTTP/1.1 x\r\n\r\n",
        b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /?" + b"&".join([b"a=1"] * 9) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n",
        b"GET / HTTP/1.1\r\nno field\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequestError):
        parse(head)
