from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_ALIVE: _ClassVar[Status]
    STATUS_SUSPECTED: _ClassVar[Status]
    STATUS_FAILED: _ClassVar[Status]
    STATUS_UNREACHABLE: _ClassVar[Status]

class Opinion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPINION_UNSPECIFIED: _ClassVar[Opinion]
    OPINION_CLEAR: _ClassVar[Opinion]
    OPINION_SUSPECT: _ClassVar[Opinion]
    OPINION_FAILED: _ClassVar[Opinion]
STATUS_UNSPECIFIED: Status
STATUS_ALIVE: Status
STATUS_SUSPECTED: Status
STATUS_FAILED: Status
STATUS_UNREACHABLE: Status
OPINION_UNSPECIFIED: Opinion
OPINION_CLEAR: Opinion
OPINION_SUSPECT: Opinion
OPINION_FAILED: Opinion

class WatchRequest(_message.Message):
    __slots__ = ("mesh", "cursor", "digest", "record", "chain", "services", "documents", "heartbeat_phase", "region")
    MESH_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_PHASE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    mesh: str
    cursor: bytes
    digest: bytes
    record: SignedRecord
    chain: Chain
    services: _containers.RepeatedCompositeFieldContainer[Service]
    documents: bytes
    heartbeat_phase: int
    region: str
    def __init__(self, mesh: _Optional[str] = ..., cursor: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., record: _Optional[_Union[SignedRecord, _Mapping]] = ..., chain: _Optional[_Union[Chain, _Mapping]] = ..., services: _Optional[_Iterable[_Union[Service, _Mapping]]] = ..., documents: _Optional[bytes] = ..., heartbeat_phase: _Optional[int] = ..., region: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("chains", "records", "statuses", "cursor", "version", "digest", "complete", "verdicts", "documents", "home_digest", "regions_digest")
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    HOME_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REGIONS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    chains: _containers.RepeatedCompositeFieldContainer[Chain]
    records: _containers.RepeatedCompositeFieldContainer[SignedRecord]
    statuses: _containers.RepeatedCompositeFieldContainer[DerivedStatus]
    cursor: bytes
    version: int
    digest: bytes
    complete: bool
    verdicts: _containers.RepeatedCompositeFieldContainer[SignedVerdict]
    documents: _containers.RepeatedCompositeFieldContainer[SignedDocument]
    home_digest: bytes
    regions_digest: bytes
    def __init__(self, chains: _Optional[_Iterable[_Union[Chain, _Mapping]]] = ..., records: _Optional[_Iterable[_Union[SignedRecord, _Mapping]]] = ..., statuses: _Optional[_Iterable[_Union[DerivedStatus, _Mapping]]] = ..., cursor: _Optional[bytes] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., complete: bool = ..., verdicts: _Optional[_Iterable[_Union[SignedVerdict, _Mapping]]] = ..., documents: _Optional[_Iterable[_Union[SignedDocument, _Mapping]]] = ..., home_digest: _Optional[bytes] = ..., regions_digest: _Optional[bytes] = ...) -> None: ...

class Chain(_message.Message):
    __slots__ = ("certificates",)
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, certificates: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SignedRecord(_message.Message):
    __slots__ = ("body", "signature", "signer")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    signer: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., signer: _Optional[bytes] = ...) -> None: ...

class RecordBody(_message.Message):
    __slots__ = ("context", "mesh", "trust_domain", "id", "stamp", "instance", "expires_at", "removed", "voucher", "name", "type", "address", "services", "joined_at", "updated_at", "health", "trust_bundle", "region", "zone", "boundary", "silent_regions", "registry")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MESH_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    VOUCHER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    JOINED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    SILENT_REGIONS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    context: str
    mesh: str
    trust_domain: str
    id: str
    stamp: int
    instance: str
    expires_at: int
    removed: bool
    voucher: str
    name: str
    type: str
    address: str
    services: _containers.RepeatedCompositeFieldContainer[Service]
    joined_at: int
    updated_at: int
    health: str
    trust_bundle: str
    region: str
    zone: str
    boundary: str
    silent_regions: _containers.RepeatedScalarFieldContainer[str]
    registry: str
    def __init__(self, context: _Optional[str] = ..., mesh: _Optional[str] = ..., trust_domain: _Optional[str] = ..., id: _Optional[str] = ..., stamp: _Optional[int] = ..., instance: _Optional[str] = ..., expires_at: _Optional[int] = ..., removed: bool = ..., voucher: _Optional[str] = ..., name: _Optional[str] = ..., type: _Optional[str] = ..., address: _Optional[str] = ..., services: _Optional[_Iterable[_Union[Service, _Mapping]]] = ..., joined_at: _Optional[int] = ..., updated_at: _Optional[int] = ..., health: _Optional[str] = ..., trust_bundle: _Optional[str] = ..., region: _Optional[str] = ..., zone: _Optional[str] = ..., boundary: _Optional[str] = ..., silent_regions: _Optional[_Iterable[str]] = ..., registry: _Optional[str] = ...) -> None: ...

class Service(_message.Message):
    __slots__ = ("name", "version", "scope")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    scope: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., scope: _Optional[str] = ...) -> None: ...

class DerivedStatus(_message.Message):
    __slots__ = ("id", "stamp", "status")
    ID_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    id: str
    stamp: int
    status: Status
    def __init__(self, id: _Optional[str] = ..., stamp: _Optional[int] = ..., status: _Optional[_Union[Status, str]] = ...) -> None: ...

class SignedVerdict(_message.Message):
    __slots__ = ("body", "signature", "signer")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    signer: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., signer: _Optional[bytes] = ...) -> None: ...

class VerdictBody(_message.Message):
    __slots__ = ("context", "mesh", "trust_domain", "accuser", "accuser_instance", "stamp", "expires_at", "subject", "subject_instance", "subject_stamp", "opinion", "held")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MESH_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ACCUSER_FIELD_NUMBER: _ClassVar[int]
    ACCUSER_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_STAMP_FIELD_NUMBER: _ClassVar[int]
    OPINION_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    context: str
    mesh: str
    trust_domain: str
    accuser: str
    accuser_instance: str
    stamp: int
    expires_at: int
    subject: str
    subject_instance: str
    subject_stamp: int
    opinion: Opinion
    held: bool
    def __init__(self, context: _Optional[str] = ..., mesh: _Optional[str] = ..., trust_domain: _Optional[str] = ..., accuser: _Optional[str] = ..., accuser_instance: _Optional[str] = ..., stamp: _Optional[int] = ..., expires_at: _Optional[int] = ..., subject: _Optional[str] = ..., subject_instance: _Optional[str] = ..., subject_stamp: _Optional[int] = ..., opinion: _Optional[_Union[Opinion, str]] = ..., held: bool = ...) -> None: ...

class SignedDocument(_message.Message):
    __slots__ = ("body", "signature", "signer")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    signer: Chain
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., signer: _Optional[_Union[Chain, _Mapping]] = ...) -> None: ...

class DocumentBody(_message.Message):
    __slots__ = ("context", "mesh", "trust_domain", "kind", "sequence", "content")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MESH_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    context: str
    mesh: str
    trust_domain: str
    kind: str
    sequence: int
    content: bytes
    def __init__(self, context: _Optional[str] = ..., mesh: _Optional[str] = ..., trust_domain: _Optional[str] = ..., kind: _Optional[str] = ..., sequence: _Optional[int] = ..., content: _Optional[bytes] = ...) -> None: ...
