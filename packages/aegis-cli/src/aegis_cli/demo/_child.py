"""What the processes of the demo that take part in the mesh have in common."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_cli.demo._lifeline import Lifeline

if TYPE_CHECKING:
    from aegis_certs import TLSConfig


def run(main: Callable[[Lifeline], None]) -> None:
    """Runs one, tied to its parent; what it fails with is reported in one sentence."""
    lifeline = Lifeline()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        main(lifeline)
    except Exception as error:
        logging.exception("it ended")
        lifeline.report("failed", reason=" ".join(str(error).split()) or type(error).__name__)
        sys.exit(1)


def load_identity(cert_dir: str, name: str) -> TLSConfig:
    """Loads what was made for it; nothing is made here, where the directory may go any moment."""
    from aegis_certs import TLSOptions, load_tls

    directory = Path(cert_dir)
    return load_tls(
        TLSOptions(
            cert_file=directory / f"{name}-cert.pem",
            key_file=directory / f"{name}-key.pem",
            ca_file=directory / "ca-cert.pem",
        )
    )
