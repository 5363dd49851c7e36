from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PingRequest(_message.Message):
    __slots__ = ("sender_id", "timestamp", "look_up")
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    LOOK_UP_FIELD_NUMBER: _ClassVar[int]
    sender_id: str
    timestamp: int
    look_up: str
    def __init__(self, sender_id: _Optional[str] = ..., timestamp: _Optional[int] = ..., look_up: _Optional[str] = ...) -> None: ...

class PingResponse(_message.Message):
    __slots__ = ("receiver_id", "timestamp", "success", "instance", "node_id", "address")
    RECEIVER_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    receiver_id: str
    timestamp: int
    success: bool
    instance: str
    node_id: str
    address: str
    def __init__(self, receiver_id: _Optional[str] = ..., timestamp: _Optional[int] = ..., success: bool = ..., instance: _Optional[str] = ..., node_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ("sender_id",)
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    sender_id: str
    def __init__(self, sender_id: _Optional[str] = ...) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("node_id", "status", "last_checked", "message", "error")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LAST_CHECKED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    status: str
    last_checked: int
    message: str
    error: str
    def __init__(self, node_id: _Optional[str] = ..., status: _Optional[str] = ..., last_checked: _Optional[int] = ..., message: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class NodeInfoRequest(_message.Message):
    __slots__ = ("sender_id",)
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    sender_id: str
    def __init__(self, sender_id: _Optional[str] = ...) -> None: ...

class NodeInfoResponse(_message.Message):
    __slots__ = ("id", "name", "type", "address", "health")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    type: str
    address: str
    health: HealthResponse
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., type: _Optional[str] = ..., address: _Optional[str] = ..., health: _Optional[_Union[HealthResponse, _Mapping]] = ...) -> None: ...

class TopologySyncRequest(_message.Message):
    __slots__ = ("sender_id", "version")
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    sender_id: str
    version: int
    def __init__(self, sender_id: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class TopologySyncResponse(_message.Message):
    __slots__ = ("version", "nodes", "updated_at")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    version: int
    nodes: _containers.RepeatedCompositeFieldContainer[TopologyNode]
    updated_at: int
    def __init__(self, version: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[TopologyNode, _Mapping]]] = ..., updated_at: _Optional[int] = ...) -> None: ...

class GetTopologyRequest(_message.Message):
    __slots__ = ("sender_id",)
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    sender_id: str
    def __init__(self, sender_id: _Optional[str] = ...) -> None: ...

class GetTopologyResponse(_message.Message):
    __slots__ = ("version", "nodes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    version: int
    nodes: _containers.RepeatedCompositeFieldContainer[TopologyNode]
    def __init__(self, version: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[TopologyNode, _Mapping]]] = ...) -> None: ...

class TopologyNode(_message.Message):
    __slots__ = ("id", "name", "type", "address", "joined_at", "updated_at", "services")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    JOINED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    type: str
    address: str
    joined_at: int
    updated_at: int
    services: _containers.RepeatedCompositeFieldContainer[Service]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., type: _Optional[str] = ..., address: _Optional[str] = ..., joined_at: _Optional[int] = ..., updated_at: _Optional[int] = ..., services: _Optional[_Iterable[_Union[Service, _Mapping]]] = ...) -> None: ...

class Service(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...
