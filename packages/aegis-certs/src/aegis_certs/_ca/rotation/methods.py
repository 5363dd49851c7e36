"""What `CertificateAuthority` does to replace its CA, as a base class."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from aegis_certs._ca.create import root_store
from aegis_certs._ca.opening import Opening
from aegis_certs._ca.rotation import steps
from aegis_certs._ca.rotation.plan import MeshView, RotationDecision
from aegis_certs._ca.rotation_state import RotationState
from aegis_certs._x509.names import KeyType


class Rotating(Opening):
    """The methods of `CertificateAuthority` for the steps of a rotation."""

    def rotation(self, *, at: datetime | None = None) -> RotationState:
        """The state of the rotation of this CA.

        Raises:
            CertsError: The directory cannot be used.
        """
        with self._open(at) as session:
            return steps.state_of(session)

    def advance_rotation(self, view: MeshView, *, at: datetime | None = None) -> RotationDecision:
        """Does the step of the rotation that is due now, if there is one.

        An issuer calls this again and again, with what it sees of its mesh. Several may do so in
        one directory: each step is done once.

        Args:
            view: What the caller sees of the mesh.
            at: The current time; now by default.

        Returns:
            What was done, or why nothing was, and when to call it again.

        Raises:
            CertsError: The directory cannot be used.
        """
        with self._open(at) as session:
            return steps.advance(session, view)

    def prepare_rotation(
        self,
        *,
        key_type: KeyType | None = None,
        days: float | None = None,
        name: str | None = None,
        root_directory: str | Path | None = None,
        at: datetime | None = None,
    ) -> RotationState:
        """Creates the next CA. Nodes trust both from now on; the current CA goes on issuing.

        Args:
            key_type: The key type of the next CA; by default that of the current CA.
            days: How long it lives; by default as long as the current CA.
            name: Its common name; by default that of the current CA with the next number.
            root_directory: Makes it an intermediate of the root in this directory, which is
                created if it is missing. Required if the current CA is an intermediate.
            at: The current time; now by default.

        Raises:
            RotationError: A rotation is in progress.
            InvalidRequestError: The name, days or key type is invalid.
            NotFoundError: The current CA is an intermediate, and no root directory was given.
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as session:
            root = root_store(session.store.directory, root_directory)
            steps.prepare(session, steps.successor_spec(session, key_type, days, name, root))
            return steps.state_of(session)

    def activate_rotation(
        self,
        *,
        distrusting: Sequence[str] | None = None,
        confirm: bool = False,
        at: datetime | None = None,
    ) -> RotationState:
        """Makes the prepared CA the issuing CA; certificates of the old CA stay valid.

        Args:
            distrusting: The nodes whose bundles lack the new CA; None if no bundle can be seen.
            confirm: Activate it even if nodes may not trust it.
            at: The current time; now by default.

        Raises:
            RotationError: No CA is prepared.
            StillUsedError: Nodes do not trust it, or may not trust it; confirm, or wait.
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as session:
            steps.activate(session, distrusting, confirm)
            return steps.state_of(session)

    def retire_rotation(
        self, *, in_use: Sequence[str] = (), at: datetime | None = None
    ) -> RotationState:
        """Removes the old CA from the trust bundle, and removes its key.

        Args:
            in_use: Nodes that use a certificate of the old CA, besides those in the inventory.
            at: The current time; now by default.

        Raises:
            RotationError: No rotation is activated.
            StillUsedError: Nodes have certificates of the old CA; renew or revoke them.
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as session:
            steps.retire(session, in_use)
            return steps.state_of(session)
