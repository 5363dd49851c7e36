"""The public names: what users may import is decided here and not by the contents of a module."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, KeyType

PACKAGES = ("aegis_certs", "aegis_discovery", "aegis_core", "aegis_cli")
LAZY = (
    *("aegis_certs", "aegis_discovery", "aegis_discovery.aio", "aegis_discovery.enrolment"),
    "aegis_discovery.registry",
    "aegis_core",
)

# Every import path of users: each public module, and the names of its __all__.
EXPORTED = {
    "aegis_certs": """
        AlreadyExistsError CAEndsError CertificateAuthority CertificateInfo CertificateSource
        CertificateState CertsError DEFAULT_TRUST_DOMAIN DirectoryError DocumentSigner
        EnrolledIdentity Enrolment EnrolmentRefusedError EnrolmentRequest ExpectedIdentity
        ExpiredError Identity IdentityError IdentitySource InvalidNodeIdError InvalidPemError
        InvalidRequestError InvalidTokenError InventoryError IssuedCertificate IssuerAddress
        KeyMismatchError KeyType LockTimeoutError MAX_WORKERS MeshView MissingHostError
        NotFoundError NotYetValidError PassphraseError Renewal RenewalSchedule RequestedIdentity
        Revocation RevocationList RevocationListError RevocationReason RevokedError RotationDecision
        RotationError RotationPhase RotationPlan RotationState RotationStep SignedCertificate
        StillUsedError StillValidError TLSConfig TLSOptions Token TokenInfo TokenState TrustBundle
        TrustStep TrustStore TrustStoreError UntrustedError UsageError VerificationError WorkerId
        browser_trust_stores enrolment_id_of existing_identity identity_of install_certificate
        install_identity is_authority kubernetes_secret list_certificates load_or_generate_tls
        load_tls matching_names new_enrolment_key_and_csr owner_of parse_worker_id pkcs12
        request_certificate requesting spiffe_bundle system_trust_store validate_node_id
        verify_authority write_issuer_address PublishedFiles needed_cas
    """,
    "aegis_certs.cli": """
        Command CommandGroup LazyCommands UNLIMITED certificate_directory certs certs_exit_codes
        examine examples fail json_flag option present printable run_slowly show_json warn_at_once
        width_of
    """,
    "aegis_certs.errors": """
        AlreadyExistsError CAEndsError CertsError DirectoryError EnrolmentRefusedError ExpiredError
        IdentityError InvalidNodeIdError InvalidPemError InvalidRequestError InvalidTokenError
        InventoryError KeyMismatchError LockTimeoutError MissingHostError NotFoundError
        NotYetValidError PassphraseError RevocationListError RevokedError RotationError
        StillUsedError StillValidError TrustStoreError UntrustedError UsageError VerificationError
    """,
    "aegis_cli": "main",
    "aegis_cli.cli": "aegis",
    "aegis_cli.errors": """
        CallFailedError CannotListenError CliError DemoError InvalidMessageError NoAuthorityError
        NoIdentityError NotDescribedError NotDrainedError NotForgottenError NotProvidedError
        UnknownNodeError
    """,
    "aegis_core": """
        AddressInUseError CallDeniedError CallRule CallStats Caller CallerError CallerRefusedError
        CertificateSource ConfigError FeedStats FunctionHealthChecker HealthChecker HealthInfo
        HealthStatus JoinError LoadedPolicy MeshError MeshEvent MeshServer NoCertificateError
        NoPeerInfoError NoProvidersError NoTLSConfigError NoTLSInfoError Node NodeIdInUseError
        NodeInfo NodeStanding NodeStateError NodeStats NodeStatus PeerInfo PeerManager
        PeerNotFoundError Policy PolicyError PoolOptions ProvideRule RegistrarError
        ServiceClientPool ServiceInfo SyncReport TLSConfig TLSOptions Topology TopologyEvent
        WorkerStartError caller_from_context run_workers
    """,
    "aegis_core.aio": "HealthMonitor MeshServer Node PeerManager SyncReport",
    "aegis_core.errors": """
        AddressInUseError CallDeniedError CallerError CallerRefusedError ConfigError JoinError
        MeshError NoCertificateError NoPeerInfoError NoTLSConfigError NoTLSInfoError NodeStateError
        PeerNotFoundError RegistrarError WorkerStartError
    """,
    "aegis_core.simulation": "Event LATENCY Simulation Spread Traffic UnmetError spread",
    "aegis_core.workers": """
        Job Worker asks_for_workers load_registrars run_workers supervise
    """,
    "aegis_core.testing": "AbortedError FakeContext LocalMesh identity",
    "aegis_core.testing.aio": "AbortedError FakeContext LocalMesh identity",
    "aegis_core.testing.plugin": "aegis_context aegis_identity aegis_mesh",
    "aegis_discovery": """
        Balancer ClosedError ConnectError DEFAULT_MESH DiscoveryError EdgeStats
        EndpointState EndpointStats EndpointView EnrolmentError EventKind ForkedError
        HealthStatus InvalidAddressError InvalidDocumentError InvalidRecordError
        InvalidVerdictError LatencyStats LeastRequests MergeResult Mesh NoProvidersError
        NodeIdInUseError NodeInfo NodeNotFoundError NodeStatus NotOwnerError
        PeerIdentityError PoolOptions PoolStats RoundRobin ServiceClientPool
        ServiceConfigError ServiceInfo ServiceStats TokenError Topology TopologyEvent
        TopologySnapshot connect enroll renew
    """,
    "aegis_discovery.aio": "Mesh ServiceClientPool connect enroll renew",
    "aegis_discovery.aio.feed": """
        FEED_TIMEOUT FeedDivergedError FeedGarbageError FeedTimeoutError follow
    """,
    "aegis_discovery.aio.identity": "run_rotator",
    "aegis_discovery.aio.transport": "ChannelCache open_channel",
    "aegis_discovery.background": """
        BackgroundLoop Timer call_later in_daemon_thread new_event_loop register_at_fork sleep
        sleep_until_tick stacks_of_own_size timers_outside_loop
    """,
    "aegis_discovery.documents": """
        AuthorityDocuments AuthorityState Change Document DocumentBody DocumentKeeper DocumentKind
        DocumentPublisher DocumentStore DocumentVerifier Draft Forgotten MAX_AHEAD MAX_CONTENT NAMES
        SignedDocument Verifier crl_document decode_body decode_content document_from_wire
        document_to_wire encode_body encode_bundle encode_forgotten encode_issuers publish_drained
        publish_forgotten publish_policy sign_document
    """,
    "aegis_discovery.enrolment": """
        AnyToken MeshRenewal ask_issuers enroll_until_cancelled known_issuers load_or_enroll
        read_token
    """,
    "aegis_discovery.errors": """
        ClosedError ConnectError DiscoveryError EnrolmentError EventLoopError ForkedError
        InvalidAddressError InvalidDocumentError InvalidRecordError InvalidVerdictError
        NoProvidersError NodeIdInUseError NodeNotFoundError NotOwnerError PeerIdentityError
        PolicyError ServiceConfigError TokenError
    """,
    "aegis_discovery.feed": """
        BATCH CHUNK FeedPacer FeedReader FeedWriter HEARTBEAT MAX_BATCH MAX_MESSAGE MAX_REQUEST
        PROCESS_TICKS ReceiveResult Ticks heartbeat_phase heartbeat_ticks remove_impersonators
        request_problem split_message
    """,
    "aegis_discovery.identity": "IdentityEvent IdentityEventKind IdentityRotator",
    "aegis_discovery.policy": """
        CallRule Decision NAMED_SERVICES OPEN_SERVICES Policy PolicyError ProvideRule
        ProviderAuthorizer Subject combined load_policy parse_policy split_method
    """,
    "aegis_discovery.records": """
        LEASE MAX_AHEAD MAX_PLACE MAX_RECORD MAX_REGION Opinion REPUBLISH_EVERY Record
        RecordSigner RecordVerifier Signed SignedVerdict TOMBSTONE_LEASE UNREFUTED
        UNREFUTED_ELSEWHERE VERDICT_LEASE Verdict VerdictCounter Verifier accusations decode_record
        decode_verdict is_unanswered node_to_unsigned nodes_from_unsigned place_problem
        signed_from_wire valid_accusations
    """,
    "aegis_discovery.registry": """
        Contents EtcdRegistry Keys Publication Registry RegistryAddress RegistryStatuses
        RendezvousObservers encode_document encode_record_entry encode_verdict_entry
        parse_registry
    """,
    "aegis_discovery.signals": """
        CODES Edge EdgeStats EdgeTable FOLD_MASK LATENCY_BOUNDS LatencyStats LogLimiter MAX_EDGES
        OTHER PeerEdges busiest_edges edge_to_json
    """,
    "aegis_discovery.telemetry": "HandlerTelemetry HandlerTrace OpenTelemetry current_handler",
    "aegis_discovery.transport": """
        Backoff ChannelCache FEED_OPTIONS Resolver SHED_METADATA SeedPeer channel_credentials
        describe_call_error is_wildcard join_address open_channel parse_seed probe_identity
        resolve_seed split_address split_host_port
    """,
}

NODE = """
    start stop address topology pool peers server health add_peer remove_peer ping_peer
    get_peer_health get_peer_node_info sync_topology sync_topology_with_all_peers
"""
# The members that each public class promises.
PROMISED = {
    "aegis_certs.CertificateAuthority": "create load issue",
    "aegis_certs.TLSConfig": "node_id",
    "aegis_certs.TLSOptions": """
        source cert_file key_file ca_file cert_env key_env ca_env verify_chain allow_expired
        required_sans
    """,
    "aegis_discovery.ServiceInfo": "name version",
    "aegis_discovery.NodeInfo": "id name type address services joined_at updated_at",
    "aegis_discovery.Topology": """
        version updated_at nodes add_node remove_node update_node get_node merge snapshot subscribe
        get_service_providers get_nodes_by_service
    """,
    "aegis_discovery.ServiceClientPool": "get_conn channel",
    "aegis_discovery.aio.ServiceClientPool": "get_conn channel",
    "aegis_core.Caller": "node_id certificate",
    "aegis_core.Node": NODE,
    "aegis_core.PeerInfo": "id address type",
    "aegis_core.aio.Node": NODE,
}


def public_modules():
    for package in PACKAGES:
        root = importlib.import_module(package)
        names = (m.name for m in pkgutil.walk_packages(root.__path__, f"{package}."))
        yield from (
            name
            for name in (package, *names)
            if not any(part.startswith("_") for part in name.split("."))
            # Generated code, and the programs of the demo.
            and not name.startswith(("aegis_discovery.proto", "aegis_cli.demo"))
        )


def members(owner):
    declared = (inspect.get_annotations(base) for base in getattr(owner, "__mro__", ()))
    return set(dir(owner)).union(*declared)


def test_the_public_modules_are_those_of_the_table():
    assert sorted(public_modules()) == sorted(EXPORTED)


@pytest.mark.parametrize("name", EXPORTED)
def test_a_public_module_exports_exactly_the_names_of_the_table(name):
    exported = importlib.import_module(name).__all__
    assert sorted(exported) == sorted(EXPORTED[name].split())


@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_name_exists(name):
    module = importlib.import_module(name)
    assert [exported for exported in module.__all__ if not hasattr(module, exported)] == []


@pytest.mark.parametrize("path", PROMISED)
def test_a_public_class_has_its_promised_members(path):
    module, _, name = path.rpartition(".")
    owner = getattr(importlib.import_module(module), name)
    assert sorted(set(PROMISED[path].split()) - members(owner)) == []


@pytest.mark.parametrize(
    "package", [*LAZY, "aegis_discovery.documents", "aegis_discovery.enrolment"]
)
def test_a_package_that_loads_names_on_first_use_tells_type_checkers_their_homes(package):
    module = importlib.import_module(package)
    (block,) = (
        node
        for node in ast.parse(Path(module.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {name.name: found.module for found in block.body for name in found.names}
    loaded_at_once = getattr(module, "errors", None) if package == "aegis_certs" else None
    assert typed.keys() | set(getattr(loaded_at_once, "__all__", ())) == set(module.__all__)
    for name, home in typed.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        module.missing  # noqa: B018 - it is looked up


def test_importing_a_package_loads_neither_grpc_nor_cryptography():
    code = (
        f"import sys, {', '.join(LAZY)}\n"
        "print({'grpc', 'google.protobuf', 'cryptography', 'asyncio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("aegis_core", "aegis_core._server.aio.server"),
        ("aegis_core.aio", "aegis_core._server.sync.server"),
    ],
)
def test_a_node_loads_neither_the_other_server_nor_what_only_an_issuer_needs(package, others):
    rare = {
        others,
        "aegis_certs._ca.rotation",
        "aegis_certs._ca.session",
        "aegis_certs._identity.load",
        "aegis_certs._x509.signer",
        "aegis_certs._x509.token",
        "aegis_core._server.issuer",
        "aegis_core._stats",
        "aegis_discovery._runtime.edge_stats",
        "aegis_discovery.policy._rules",
        "aegis_discovery.policy._toml",
        "aegis_discovery.proto.issuer_pb2",
        "importlib.metadata",
        "platform",
    }
    code = f"import sys\nfrom {package} import Node\nprint({rare!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_node_at_rest_has_loaded_and_started_only_what_it_needs(tmp_path):
    authority = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    authority.issue("a", key_type=KeyType.P256, address="127.0.0.1:0")
    code = (
        "import sys, threading\nfrom aegis_core import Node\n"
        "with Node('a', address='127.0.0.1:0', cert_dir=sys.argv[1], grace=0):\n"
        "    rare = {'grpc_reflection.v1alpha', 'google.protobuf.descriptor_pb2',\n"
        "        'aegis_certs._ca.session', 'aegis_core._server.issuer', 'aegis_core._stats',\n"
        "        'aegis_discovery._calls.pool_base', 'platform', 'rich', 'click'}\n"
        "    print(rare & set(sys.modules), threading.active_count())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded, threads = done.stdout.rsplit(maxsplit=1)
    assert loaded == "set()"
    # The main thread, the event loop, the server's queue, and those that load files.
    assert int(threads) <= 7


@pytest.mark.parametrize("package", ["aegis_discovery", "aegis_discovery.aio"])
def test_a_client_loads_only_what_a_first_call_needs(package):
    rare = {
        "aegis_certs._ca.passphrase",
        "aegis_certs._ca.session",
        "aegis_certs._identity.enrolment",
        "aegis_certs._identity.requested",
        "aegis_certs._x509.revocation",
        "aegis_certs._x509.signer",
        "aegis_certs._x509.token",
        "aegis_discovery._calls.options",
        "aegis_discovery._calls.stats",
        "aegis_discovery._runtime.edge_stats",
        "aegis_discovery.documents._authority",
        "aegis_discovery.documents._codec",
        "aegis_discovery.documents._publisher",
        "aegis_discovery.enrolment._ask",
        "aegis_discovery.enrolment._enroll",
        "aegis_discovery.feed._writer",
        "aegis_discovery.policy._rules",
        "aegis_discovery.policy._toml",
        "json",
    }
    if package.endswith(".aio"):
        rare.add("aegis_discovery._calls.pool_base")  # loaded when the pool is used
    code = f"import sys\nfrom {package} import connect\nprint({rare!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
