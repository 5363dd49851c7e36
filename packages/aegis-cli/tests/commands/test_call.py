from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from aegis_cli.cli import aegis

SHOP = '''
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf import timestamp_pb2
from google.protobuf.message_factory import GetMessageClass

FILE = """
name: "shop.proto" package: "shop.v1" syntax: "proto3"
dependency: "google/protobuf/timestamp.proto"
enum_type { name: "Kind" value { name: "KIND_NONE" number: 0 } value { name: "KIND_BIG" number: 1 } }
message_type { name: "Order"
  field { name: "order_id" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "orderId" }
  field { name: "items" number: 2 type: TYPE_STRING label: LABEL_REPEATED json_name: "items" }
  field { name: "kind" number: 3 type: TYPE_ENUM type_name: ".shop.v1.Kind" label: LABEL_OPTIONAL json_name: "kind" }
  field { name: "made_at" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL json_name: "madeAt" }
  field { name: "counts" number: 5 type: TYPE_MESSAGE type_name: ".shop.v1.Order.CountsEntry" label: LABEL_REPEATED json_name: "counts" }
  field { name: "card" number: 6 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "card" oneof_index: 0 }
  nested_type { name: "CountsEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "key" }
    field { name: "value" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL json_name: "value" } }
  oneof_decl { name: "paid" } }
message_type { name: "Query"
  field { name: "prefix" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "prefix" }
  field { name: "count" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL json_name: "count" } }
service { name: "Orders"
  method { name: "Get" input_type: ".shop.v1.Query" output_type: ".shop.v1.Order" }
  method { name: "List" input_type: ".shop.v1.Query" output_type: ".shop.v1.Order" server_streaming: true }
  method { name: "Import" input_type: ".shop.v1.Order" output_type: ".shop.v1.Query" client_streaming: true }
  method { name: "Chat" input_type: ".shop.v1.Query" output_type: ".shop.v1.Order" client_streaming: true server_streaming: true } }
"""
pool = descriptor_pool.Default()
pool.Add(text_format.Parse(FILE, descriptor_pb2.FileDescriptorProto()))
Order, Query = (GetMessageClass(pool.FindMessageTypeByName(f"shop.v1.{n}")) for n in ("Order", "Query"))

def get(query, context):
    if query.prefix == "none":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
    tenant = dict(context.invocation_metadata()).get("tenant", "")
    return Order(order_id=query.prefix + tenant, kind=1, counts={"a": 1})

def listed(query, context):
    for number in range(query.count):
        yield Order(order_id=f"{query.prefix}-{number}")
    if query.prefix == "forever":
        import threading
        threading.Event().wait()

def imported(orders, context):
    return Query(count=sum(1 for _ in orders))

def chat(queries, context):
    for query in queries:
        yield Order(order_id=query.prefix)

def register(server):
    kinds = {
        "Get": grpc.unary_unary_rpc_method_handler(get, Query.FromString, Order.SerializeToString),
        "List": grpc.unary_stream_rpc_method_handler(listed, Query.FromString, Order.SerializeToString),
        "Import": grpc.stream_unary_rpc_method_handler(imported, Order.FromString, Query.SerializeToString),
        "Chat": grpc.stream_stream_rpc_method_handler(chat, Query.FromString, Order.SerializeToString),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.v1.Orders", kinds),))
'''  # noqa: E501 - one field of a descriptor a line
BOUND = 60


@dataclass(frozen=True)
class Done:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


class Shop:
    """A mesh with one service of all four kinds, and the command."""

    def __init__(self, command, address: str) -> None:
        self.command = command
        self.address = address
        self.environment = command.environment | {"AEGIS_NODE": address}

    def run(self, *arguments: str, stdin: str = "") -> Done:
        """Runs the command in this process, which is several times faster than in its own."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in self.environment.items():
                patch.setenv(name, value)
            with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as end:
                aegis(arguments, prog_name="aegis")
        return Done(int(end.value.code or 0), stdout.getvalue(), stderr.getvalue())

    def call(self, method: str, *arguments: str, stdin: str = "") -> Done:
        return self.run("call", "orders/v1", f"shop.v1.Orders/{method}", *arguments, stdin=stdin)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, certs: Path, command_in) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    (directory / "shop.py").write_text(SHOP)
    with ExitStack() as stack:
        command = command_in(directory, certs, stack)
        _, address = command.node("seed")
        serve = ("--join", address, "--service", "orders/v1", "shop:register")
        command.node("orders-1", "--region", "eu", "--service", "cache/v1@region", *serve)
        command.node("orders-2", *serve)
        yield Shop(command, address)


def test_it_calls_with_json_and_prints_the_answer_as_json(shop) -> None:
    done = shop.call("Get", '{"prefix": "a"}', "--metadata", "tenant=-b")
    assert json.loads(done.stdout) == {"orderId": "a-b", "kind": "KIND_BIG", "counts": {"a": 1}}
    assert (done.returncode, done.stderr) == (0, "")


def test_it_prints_the_answers_of_a_stream_one_a_line(shop) -> None:
    done = shop.call("List", '{"prefix": "a", "count": 2}')
    assert done.stdout == '{"orderId": "a-0"}\n{"orderId": "a-1"}\n'


def test_it_sends_the_objects_of_standard_input_as_a_stream(shop) -> None:
    done = shop.call("Import", "-", stdin='{"orderId": "1"} {"order_id":\n"2"}\n{}')
    assert json.loads(done.stdout) == {"count": 3}


def test_a_conversation_answers_each_request_before_the_next_is_given(shop) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "aegis_cli", "call", "orders/v1", "shop.v1.Orders/Chat", "-"],
        env=shop.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as talk:
        for name in ("first", "second"):
            talk.stdin.write(json.dumps({"prefix": name}) + "\n")
            talk.stdin.flush()
            assert json.loads(talk.stdout.readline()) == {"orderId": name}
        talk.stdin.close()
        assert talk.wait(BOUND) == 0


def test_a_failed_call_exits_with_its_grpc_code_and_says_what_the_service_said(shop) -> None:
    done = shop.call("Get", '{"prefix": "none"}')
    assert (done.returncode, done.stdout) == (64 + 5, "")
    assert done.stderr == "Error: a call failed with NOT_FOUND: no such order\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shop.v1.Orders/Get", '{"colour": 1}'), "request 1 is not a shop.v1.Query"),
        (("shop.v1.Orders/Get", '{"colour": 1}'), "its fields: prefix, count"),
        (("shop.v1.Orders/Chat", '{"count": "x"}'), "request 1 is not a shop.v1.Query"),
        (("shop.v1.Orders/Get", '{"prefix":'), "request 1 is no JSON"),
        (("shop.v1.Orders/Get", "null"), "request 1 is null, and no JSON object"),
        (("shop.v1.Orders/Chat", '["count"]'), 'request 1 is ["count"], and no JSON object'),
        (("shop.v1.Orders/Get", "[" * 100_000), "too many values are within each other"),
        (("shop.v1.Orders/Get", "{}", "{}"), "request 2 is one too many"),
        (("shop.v1.Orders/Drop",), "no method Drop; its methods: Chat, Get, Import, List"),
        (("shop.v1.Carts/Get",), "no service shop.v1.Carts; its services: shop.v1.Orders"),
        (("shop.v1.Orders/Get", "--node", "seed"), "its providers: orders-1, orders-2"),
    ],
)
def test_a_mistake_is_named_in_one_sentence(shop, arguments, message: str) -> None:
    done = shop.run("call", "orders/v1", *arguments)
    assert message in done.stderr, done
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_an_unknown_service_or_a_wrong_use_is_refused(shop) -> None:
    done = shop.run("call", "carts/v1", "shop.v1.Carts/Get")
    assert (done.returncode, "no node provides carts/v1" in done.stderr) == (1, True)
    for arguments in (("orders", "a.B/C"), ("orders/v1", "a.B.C"), ("orders/v1", "/a.B/")):
        assert shop.run("call", *arguments).returncode == 2, arguments
    done = shop.run("call", "orders/v1", "a.B/C", "--node", shop.address)
    assert (done.returncode, "--via the address" in done.stderr) == (2, True)


def test_one_provider_can_be_called(shop) -> None:
    done = shop.call("Get", "--node", "orders-2")
    assert (done.returncode, json.loads(done.stdout)["kind"]) == (0, "KIND_BIG")


def test_a_service_of_a_region_is_called_from_there_only(shop) -> None:
    arguments = ("call", "cache/v1", "shop.v1.Orders/Get")
    for place in (("--region", "eu", "--zone", "a"), ("--node", "orders-1")):
        done = shop.run(*arguments, *place)
        assert (done.returncode, json.loads(done.stdout)["kind"]) == (0, "KIND_BIG"), place
    for place in ((), ("--region", "us"), ("--region", "EU")):
        done = shop.run(*arguments, *place)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
        assert "cache/v1" in done.stderr
        assert "'eu'" in done.stderr
    assert shop.run("services", "describe", "cache/v1", "--region", "eu").returncode == 0


def test_ctrl_c_ends_an_endless_stream_in_order(shop) -> None:
    process = shop.command.start(
        "call",
        "orders/v1",
        "shop.v1.Orders/List",
        '{"prefix": "forever", "count": 1}',
        "--via",
        shop.address,
    )
    process.stdout.until("forever-0")
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert "Traceback" not in process.stderr.rest()


def test_the_methods_and_messages_of_a_service_are_shown_as_in_a_proto_file(shop) -> None:
    done = shop.run("services", "describe", "orders/v1")
    assert "  rpc Chat(stream Query) returns (stream Order);" in done.stdout
    for field in (
        "repeated string items = 2;",
        "Kind kind = 3;",
        "google.protobuf.Timestamp made_at = 4;",
        "map<string, int32> counts = 5;",
        "string card = 6;  // one of paid",
        "KIND_BIG = 1;",
    ):
        assert f"  {field}\n" in done.stdout, done.stdout
    assert "message google" not in done.stdout
    assert "CountsEntry" not in done.stdout


def test_one_message_is_shown_and_json_has_the_same(shop) -> None:
    done = shop.run("services", "describe", "orders/v1", "shop.v1.Query")
    assert done.stdout == "message shop.v1.Query {\n  string prefix = 1;\n  int32 count = 2;\n}\n"
    facts = json.loads(shop.run("services", "describe", "orders/v1", "--json").stdout)
    (service,) = facts["services"]
    assert service["methods"][0]["path"] == "shop.v1.Orders/Get"
    assert service["methods"][3]["streams_requests"] is True


def test_an_unknown_symbol_is_refused_with_what_there_is(shop) -> None:
    done = shop.run("services", "describe", "orders/v1", "shop.v1.Nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("no service shop.v1.Nope; its services: shop.v1.Orders\n")


def test_a_provider_without_descriptors_is_reported(shop, quiet_mesh: str) -> None:
    done = shop.run("call", "orders/v1", "test.Orders/Echo", "--via", quiet_mesh)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no service test.Orders" in done.stderr
