"""The programs of the pages, as they are printed, end in order with the ordinary stop signal."""

import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_core import Node, ServiceInfo
from aegis_discovery import connect

from .test_snippets import BLOCK, ROOT, SECONDS, free_socket

CALLERS = 8
CALLS = 200
PAGES = {
    # page: service, method, id of the node, further arguments
    "README.md": ("greeter", "/greeter.v1.Greeter/SayHello", "greeter-1", []),
    "docs/learn/quickstart.md": ("hello", "/hello.Hello/Greet", "hello-1", ["hello-1", "ADDRESS"]),
}


@contextmanager
def printed_program(page, address, directory):
    """Runs the provider of a page, at this address; yields its process and its log."""
    for block in BLOCK.finditer((ROOT / page).read_text()):
        if block["name"]:
            text = block["text"].replace("127.0.0.1:50051", address)
            (directory / block["name"]).write_text(text)
    compiler = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=."]
    for proto in directory.glob("*.proto"):
        compile_it = [*compiler, "--grpc_python_out=.", proto.name]
        subprocess.run(compile_it, cwd=directory, check=True, timeout=SECONDS)
    arguments = [address if word == "ADDRESS" else word for word in PAGES[page][-1]]
    log = directory / "log"
    with log.open("w") as output:
        command = [sys.executable, "provider.py", *arguments]
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=output)
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


class Load:
    """Calls from many threads until the block ends."""

    def __init__(self, call):
        self._call = call
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CALLERS)]
        self.answers = []
        self.failures = []

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        while not self._over.is_set():
            try:
                self.answers.append(self._call())
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")


@pytest.mark.parametrize("page", PAGES)
async def test_a_printed_program_ends_with_sigterm_under_load_and_no_call_fails(
    page, tmp_path, until
):
    """The program of the README is async, that of the quickstart is blocking."""
    CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256)
    service, method, node_id, _ = PAGES[page]
    with free_socket() as found:
        address = "{}:{}".format(*found.getsockname())

    def register(server):
        handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
        _, full_name, name = method.split("/")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(full_name, {name: handler}),)
        )

    other = Node(
        "other",
        address="127.0.0.1:0",
        cert_dir=tmp_path / "certs",
        seed_peers=[address],
        services=[ServiceInfo(service, "v1")],
        registrars=[register],
    )
    with printed_program(page, address, tmp_path) as (process, log):
        await until(lambda: f"{node_id} serves at {address}" in log.read_text())
        with other, connect(other.address, node_id="client", cert_dir=tmp_path / "certs") as mesh:
            await until(lambda: len(mesh.topology.get_service_providers(service, "v1")) == 2)
            call = mesh.pool.channel(service, "v1").unary_unary(method)
            with Load(lambda: call(b"", timeout=SECONDS)) as load:
                await until(lambda: sum(map(bool, load.answers)) > CALLS)
                process.send_signal(signal.SIGTERM)
                await until(lambda: process.poll() is not None)
                after = len(load.answers)
                await until(lambda: len(load.answers) > after + CALLS)
            assert load.failures == []
        assert process.returncode == 0
        assert f"{node_id} stopped" in log.read_text()
        assert "Traceback" not in log.read_text()
