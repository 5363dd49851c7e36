"""A client that joins a large mesh, and prints its cost."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from aegis_certs import TLSConfig
from aegis_discovery.aio import connect

PAGE = os.sysconf("SC_PAGESIZE")


def report(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def main() -> None:
    options = json.loads(sys.argv[1])
    pems = [options[name].encode() for name in ("chain", "key", "bundle")]
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    imported = cpu_seconds()
    tls = TLSConfig(options["id"], *pems)
    async with await connect(options["seed"], tls=tls, timeout=60) as mesh:
        report(joined=len(mesh.topology.nodes), imported=imported, cpu=cpu_seconds())
        changed = asyncio.Event()
        mesh.topology.subscribe_changed(lambda: loop.call_soon_threadsafe(changed.set))
        async for line in commands:
            wanted = int(line.split()[-1])
            # Not by its nodes: a mapping of them, made at each check, would be measured too.
            while mesh.topology.log_position < wanted:
                changed.clear()
                await changed.wait()
            gc.collect()
            held = resident()
            if len(mesh.topology.nodes) != wanted:
                raise RuntimeError(f"{len(mesh.topology.nodes)} of {wanted} records are held")
            report(resident=held)


asyncio.run(main())
