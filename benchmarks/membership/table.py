"""The table of this benchmark: what is measured, its limit, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

COUNTS = ("hops", "nodes", "feeds")

TOLERANCE = 1.05
"""As `TOLERANCE` of the harness."""


@dataclass(frozen=True)
class Measured:
    """The result of a row.

    Attributes:
        values: In the row's unit, as many as the row has limits; the first ones count.
        note: How it came about, in a few words.
    """

    values: tuple[float, ...]
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One promise, and how to measure it.

    Attributes:
        name: For `--only`.
        what: In words.
        at_most: The limits.
        unit: Of the limits and the values.
        nodes: How large the mesh is; `--nodes` overrides it.
        measure: Measures, in a mesh of so many nodes.
        cpu_values: How many of the first values are CPU time, which a busy or slow machine raises;
            those are judged on a quiet machine only.
    """

    name: str
    what: str
    at_most: tuple[float, ...]
    unit: str
    nodes: int
    measure: Callable[[int], Measured]
    cpu_values: int = 0

    def holds(self, measured: Measured) -> bool:
        """Tells whether all values are within their limits, with the tolerance of all benchmarks.

        Counts, such as hops and failed nodes, have none.
        """
        return not any(self._missed(measured))

    def verdict(self, measured: Measured, *, busy: bool) -> str:
        """Returns `ok`, `MISSED`, or `busy` if only CPU time is too much and cannot be judged."""
        missed = self._missed(measured)
        if not any(missed):
            return "ok"
        return "busy" if busy and not any(missed[self.cpu_values :]) else "MISSED"

    def _missed(self, measured: Measured) -> list[bool]:
        tolerance = 1.0 if self.unit in COUNTS else TOLERANCE
        values = zip(measured.values, self.at_most, strict=True)
        return [value > limit * tolerance for value, limit in values]
