"""Makes objects of frozen dataclasses with slots, where thousands of them are made.

A frozen dataclass sets its fields through `object.__setattr__`, which takes seven times as long as
an assignment. A draft has the same slots and is not frozen: its fields are assigned, and then it
becomes an object of the dataclass. Nobody else may have seen it before that.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar

_T = TypeVar("_T")


def draft_of(frozen: type[Any]) -> Callable[[], Any]:
    """Makes the class of drafts for a dataclass; set all fields, then `__class__` to the dataclass.

    `__post_init__` does not run.
    """
    return type(f"{frozen.__name__}Draft", (), {"__slots__": frozen.__slots__})


def changer_of(frozen: type[_T]) -> Callable[..., _T]:
    """Makes what does the same as `dataclasses.replace`, without `__init__` and `__post_init__`."""
    draft_class, names = draft_of(frozen), tuple(frozen.__slots__)  # type: ignore[attr-defined]  # a dataclass with slots
    values_of = attrgetter(*names)

    def changed(of: _T, /, **changes: object) -> _T:
        draft = draft_class()
        for name, value in zip(names, values_of(of), strict=True):
            setattr(draft, name, value)
        for name, value in changes.items():
            setattr(draft, name, value)
        draft.__class__ = frozen
        return draft  # type: ignore[no-any-return]  # it is one now

    return changed
