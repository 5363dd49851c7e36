"""Helpers for tests of programs that use Aegis: a mesh in the process, contexts, identities.

`plugin` has them as fixtures of pytest. The simulator is `aegis_core.simulation`.
"""

from aegis_core.testing._authority import identity
from aegis_core.testing._context import AbortedError
from aegis_core.testing._sync_context import FakeContext
from aegis_core.testing._sync_mesh import LocalMesh

__all__ = ["AbortedError", "FakeContext", "LocalMesh", "identity"]
