"""Enrolment for asyncio."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path

from aegis_certs import KeyType, TLSConfig

from aegis_discovery._model import DEFAULT_MESH
from aegis_discovery.enrolment._enroll import TIMEOUT, AnyToken, enroll_until_cancelled


async def enroll(
    token: AnyToken,
    cert_dir: str | Path | None = "./certs",
    *,
    node_id: str | None = None,
    mesh: str = DEFAULT_MESH,
    key_type: KeyType = KeyType.RSA_2048,
    timeout: float = TIMEOUT,
) -> TLSConfig:
    """Gets the first identity of a node or client, as `aegis_discovery.enroll`.

    It runs on a thread, which stops asking when the caller is cancelled.
    """
    cancelled = threading.Event()
    work = partial(
        enroll_until_cancelled,
        token,
        cert_dir,
        node_id=node_id,
        mesh=mesh,
        key_type=key_type,
        timeout=timeout,
        cancelled=cancelled,
    )
    try:
        return (await asyncio.to_thread(work))[0]
    finally:
        cancelled.set()
