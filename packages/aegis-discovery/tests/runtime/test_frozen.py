"""Objects of frozen dataclasses that are made without their `__init__`."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from aegis_discovery import NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._runtime.frozen import changer_of, draft_of

NODE = NodeInfo("orders-1", address="10.0.0.1:50051", services=(ServiceInfo("orders", "v1"),))

changed = changer_of(NodeInfo)


def test_a_change_gives_what_replace_gives_and_leaves_the_original_alone() -> None:
    before = copy.copy(NODE)
    found = changed(NODE, status=NodeStatus.FAILED, region="eu")
    assert found == replace(NODE, status=NodeStatus.FAILED, region="eu")
    assert hash(found) == hash(replace(NODE, status=NodeStatus.FAILED, region="eu"))
    assert before == NODE
    assert type(found) is NodeInfo
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own bytes


def test_a_changed_node_is_frozen_again() -> None:
    with pytest.raises(FrozenInstanceError):
        changed(NODE, region="eu").region = "us"


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(AttributeError):
        changed(NODE, colour="red")


def test_a_draft_has_exactly_the_fields_of_its_dataclass() -> None:
    draft = draft_of(NodeInfo)()
    for field in fields(NodeInfo):
        setattr(draft, field.name, getattr(NODE, field.name))
    draft.__class__ = NodeInfo
    assert draft == NODE
