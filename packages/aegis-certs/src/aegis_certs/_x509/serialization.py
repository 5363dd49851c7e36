"""What `cryptography` has to read and write keys and certificates, without OpenSSH's formats.

The public package `cryptography.hazmat.primitives.serialization` also loads OpenSSH's formats, and
the ciphers that these need: 8 ms of CPU and 0.4 MB in each process, of which a mesh uses nothing.
So the same objects are taken from where that package has them from. Where another version has them
elsewhere, they are taken from the public package. Seen in cryptography 45 to 50.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
    )
else:
    try:
        from cryptography.hazmat.bindings._rust import openssl
        from cryptography.hazmat.primitives._serialization import (
            BestAvailableEncryption,
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )

        load_pem_private_key = openssl.keys.load_pem_private_key
    except (ImportError, AttributeError):
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
            load_pem_private_key,
        )

__all__ = [
    "BestAvailableEncryption",
    "Encoding",
    "NoEncryption",
    "PrivateFormat",
    "PublicFormat",
    "load_pem_private_key",
]
