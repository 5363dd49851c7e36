from aegis_discovery.proto import mesh_pb2 as _mesh_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegistryEntry(_message.Message):
    __slots__ = ("chain", "record", "verdict")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    chain: _mesh_pb2.Chain
    record: _mesh_pb2.SignedRecord
    verdict: _mesh_pb2.SignedVerdict
    def __init__(self, chain: _Optional[_Union[_mesh_pb2.Chain, _Mapping]] = ..., record: _Optional[_Union[_mesh_pb2.SignedRecord, _Mapping]] = ..., verdict: _Optional[_Union[_mesh_pb2.SignedVerdict, _Mapping]] = ...) -> None: ...
