import pytest
from aegis_cli.demo._results import Calls, check_balance, check_calls
from aegis_cli.errors import DemoError

PROVIDERS = ("greeter-1", "greeter-2")


def calls(
    by_provider: dict[str, int],
    *,
    caller: str = "front",
    seen: tuple[str, ...] = ("front",),
    failures: tuple[str, ...] = (),
    loaded: bool = False,
) -> Calls:
    return Calls(caller, by_provider, seen, failures, loaded)


def test_balanced_calls_pass() -> None:
    found = [calls({"greeter-1": 101, "greeter-2": 99})]
    check_calls(found, client="client")
    check_balance(found, times=200, providers=PROVIDERS)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (calls({"greeter-1": 199}, failures=("it broke",)), "the first with: it broke"),
        (
            calls({"greeter-1": 200}, seen=("front", "mallory")),
            "saw front, mallory instead",
        ),
        (calls({}, seen=()), "providers saw no caller instead"),
        (calls({"greeter-1": 1}, caller="client", seen=("client",), loaded=True), "aegis_core"),
    ],
)
def test_a_broken_promise_is_an_error(found: Calls, message: str) -> None:
    with pytest.raises(DemoError, match=message):
        check_calls([found], client="client")


@pytest.mark.parametrize(
    "by_provider",
    [{"greeter-1": 200}, {"greeter-1": 150, "greeter-2": 50}, {"greeter-1": 99, "greeter-2": 99}],
)
def test_unfair_shares_are_an_error(by_provider: dict[str, int]) -> None:
    with pytest.raises(DemoError, match="not balanced: greeter-1"):
        check_balance([calls(by_provider)], times=200, providers=PROVIDERS)
