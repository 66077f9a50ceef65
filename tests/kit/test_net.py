import asyncio
import datetime
import functools
import inspect
import ssl
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from marram.core.errors import Unauthenticated, Unavailable
from marram.kit import metrics, net


def _certificate(folder: Path, name: str, ca: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca[0].subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2049, 1, 1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    )
    made = builder.sign(ca[1] if ca else key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made, key


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    ca = _certificate(folder, "ca", None)
    _certificate(folder, "server", ca)
    _certificate(folder, "client", ca)
    _certificate(folder, "stranger", None)
    return folder


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def server_context(pki: Path, *, verify: bool = True) -> ssl.SSLContext:
    context = net.harden(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    context.set_alpn_protocols(["x-amzn-mqtt-ca", "http/1.1"])
    return context


def client_context(pki: Path, name: str | None = "client") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if name:
        context.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    context.set_alpn_protocols(["x-amzn-mqtt-ca"])
    return context


class Echo(asyncio.Protocol):
    def __init__(self, peer: net.PeerInfo) -> None:
        self.peer = peer
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


class Collect(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = bytearray()
        self.wanted = 0
        self.event = asyncio.Event()
        self.lost = asyncio.Event()
        self.eof = False

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) >= self.wanted:
            self.event.set()

    def eof_received(self) -> bool:
        self.eof = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    async def get(self, count: int) -> bytes:
        self.wanted = count
        if len(self.data) < count:
            self.event.clear()
            await asyncio.wait_for(self.event.wait(), 5)
        return bytes(self.data)


def both_loops(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run it on asyncio's loop and on uvloop."""

    @pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def run(factory: Callable[[], asyncio.AbstractEventLoop], **arguments: object) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(test(**arguments))

    signature = inspect.signature(test)
    extra = inspect.Parameter("factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])  # type: ignore[attr-defined]
    return run


def hits(limit: str) -> float:
    return metrics.counter("marram_limit_hits_total", "", ("limit",)).labels(limit=limit).value


def failed() -> float:
    return metrics.counter("marram_tls_handshakes_total", "", ("outcome",)).labels(outcome="failed").value


@both_loops
async def test_tls_both_sides_and_a_large_body(pki: Path, pool: ThreadPoolExecutor) -> None:
    seen: list[Echo] = []

    def choose(peer: net.PeerInfo) -> asyncio.Protocol:
        seen.append(Echo(peer))
        return seen[-1]

    context = server_context(pki)
    server = await net.serve("127.0.0.1", 0, choose, tls=lambda: context, handshakes=pool)
    transport, client = await net.connect(
        "127.0.0.1", server.port, Collect, tls=client_context(pki), server_hostname="localhost"
    )
    body = bytes(range(256)) * 4096
    transport.write(body)
    assert await client.get(len(body)) == body
    peer = seen[0].peer
    assert peer.tls and peer.alpn == "x-amzn-mqtt-ca"
    assert peer.certificate_der == ssl.PEM_cert_to_DER_cert((pki / "client.pem").read_text())
    assert transport.get_extra_info("peer").certificate_der == ssl.PEM_cert_to_DER_cert(
        (pki / "server.pem").read_text()
    )
    seen[0].transport.close()
    await asyncio.wait_for(client.lost.wait(), 5)
    assert client.eof  # close_notify came
    await asyncio.wait_for(seen[0].lost.wait(), 5)
    server.close()


@both_loops
async def test_plain(pool: ThreadPoolExecutor) -> None:
    server = await net.serve("127.0.0.1", 0, Echo, tls=None, handshakes=None)
    transport, client = await net.connect("127.0.0.1", server.port, Collect, tls=None)
    transport.writelines([b"a", b"b"])
    assert await client.get(2) == b"ab"
    assert transport.get_extra_info("peer").address == ("127.0.0.1", server.port)
    transport.close()
    await asyncio.wait_for(client.lost.wait(), 5)
    server.close()


@both_loops
async def test_a_client_of_another_ca_is_refused(pki: Path, pool: ThreadPoolExecutor) -> None:
    context = server_context(pki)
    chosen: list[net.PeerInfo] = []

    def choose(peer: net.PeerInfo) -> asyncio.Protocol:
        chosen.append(peer)
        return Echo(peer)

    before = failed()
    server = await net.serve("127.0.0.1", 0, choose, tls=lambda: context, handshakes=pool)
    try:  # in TLS 1.3 the client may learn of it after its own handshake is done
        _, client = await net.connect(
            "127.0.0.1", server.port, Collect, tls=client_context(pki, "stranger"), server_hostname="localhost"
        )
    except Unavailable:
        pass
    else:
        await asyncio.wait_for(client.lost.wait(), 5)
    assert chosen == [] and failed() == before + 1
    server.close()


@both_loops
async def test_a_server_of_another_ca_is_refused(pki: Path, pool: ThreadPoolExecutor) -> None:
    context = server_context(pki, verify=False)
    server = await net.serve("127.0.0.1", 0, Echo, tls=lambda: context, handshakes=pool)
    with pytest.raises(Unauthenticated):
        await net.connect(
            "127.0.0.1", server.port, Collect, tls=ssl.create_default_context(), server_hostname="localhost"
        )
    server.close()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", b"\0"])
@both_loops
async def test_plain_bytes_on_a_tls_port_are_closed(pki: Path, pool: ThreadPoolExecutor, data: bytes) -> None:
    context = server_context(pki)
    server = await net.serve("127.0.0.1", 0, Echo, tls=lambda: context, handshakes=pool)
    transport, client = await net.connect("127.0.0.1", server.port, Collect, tls=None)
    transport.write(data)
    await asyncio.wait_for(client.lost.wait(), 5)
    assert client.data == b""
    server.close()


@both_loops
async def test_t10_a_silent_peer_is_closed_at_the_deadline(pki: Path, pool: ThreadPoolExecutor) -> None:
    context = server_context(pki)
    accept = net.Accept(handshake_s=0.05)
    before, loop = hits("tls_handshake_s"), asyncio.get_running_loop()
    server = await net.serve("127.0.0.1", 0, Echo, tls=lambda: context, handshakes=pool, accept=accept)
    began = loop.time()
    _, client = await net.connect("127.0.0.1", server.port, Collect, tls=None)
    await asyncio.wait_for(client.lost.wait(), 5)
    assert loop.time() - began >= 0.05 and client.data == b""
    assert hits("tls_handshake_s") == before + 1 and not server._half_open
    server.close()


@both_loops
async def test_t10_half_open_connections_are_limited(pki: Path, pool: ThreadPoolExecutor) -> None:
    context = server_context(pki)
    accept = net.Accept(half_open=1)
    server = await net.serve("127.0.0.1", 0, Echo, tls=lambda: context, handshakes=pool, accept=accept)
    _, first = await net.connect("127.0.0.1", server.port, Collect, tls=None)
    _, second = await net.connect("127.0.0.1", server.port, Collect, tls=None)
    await asyncio.wait_for(second.lost.wait(), 5)
    assert not first.lost.is_set()
    server.close()
    await asyncio.wait_for(first.lost.wait(), 5)


async def from_address(address: str, port: int) -> Collect:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Collect, "127.0.0.1", port, local_addr=(address, 0))
    return client


@both_loops
async def test_t10_half_open_connections_of_one_address_are_limited(pki: Path, pool: ThreadPoolExecutor) -> None:
    context = server_context(pki)
    accept = net.Accept(half_open_per_address=2)
    before = hits("tls_half_open_per_address")
    server = await net.serve("127.0.0.1", 0, Echo, tls=lambda: context, handshakes=pool, accept=accept)
    held = [await from_address("127.0.0.2", server.port) for _ in range(2)]
    third = await from_address("127.0.0.2", server.port)
    await asyncio.wait_for(third.lost.wait(), 5)
    assert hits("tls_half_open_per_address") == before + 1
    # Another address is not concerned; nor is this one when a place is free again.
    transport, client = await net.connect(
        "127.0.0.1", server.port, Collect, tls=client_context(pki), server_hostname="localhost"
    )
    transport.write(b"a")
    assert await client.get(1) == b"a"
    transport.close()
    assert not any(each.lost.is_set() for each in held)
    server.close()
    for each in held:
        await asyncio.wait_for(each.lost.wait(), 5)
    assert server._half_open == {}


@both_loops
async def test_t10_handshakes_of_one_address_have_a_rate(pki: Path, pool: ThreadPoolExecutor) -> None:
    context = server_context(pki)
    accept = net.Accept(per_address_per_s=3)
    before = hits("tls_per_address_per_s")
    server = await net.serve("127.0.0.1", 0, Echo, tls=lambda: context, handshakes=pool, accept=accept)
    begun = [await from_address("127.0.0.3", server.port) for _ in range(3)]
    fourth = await from_address("127.0.0.3", server.port)
    await asyncio.wait_for(fourth.lost.wait(), 5)
    assert not any(each.lost.is_set() for each in begun) and hits("tls_per_address_per_s") == before + 1
    elsewhere = await from_address("127.0.0.4", server.port)
    assert not elsewhere.lost.is_set()
    server.close()
    await asyncio.wait_for(elsewhere.lost.wait(), 5)


@both_loops
async def test_a_changed_context_serves_the_next_handshake(pki: Path, pool: ThreadPoolExecutor) -> None:
    contexts = [server_context(pki)]
    server = await net.serve("127.0.0.1", 0, Echo, tls=lambda: contexts[-1], handshakes=pool)
    first, client = await net.connect(
        "127.0.0.1", server.port, Collect, tls=client_context(pki), server_hostname="localhost"
    )
    stricter = server_context(pki)
    stricter.minimum_version = ssl.TLSVersion.TLSv1_3
    contexts.append(stricter)
    old = client_context(pki)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(Unavailable):
        await net.connect("127.0.0.1", server.port, Collect, tls=old, server_hostname="localhost")
    first.write(b"still here")
    assert await client.get(10) == b"still here"
    first.close()
    server.close()


@both_loops
async def test_t10_who_only_connects_has_no_tls_state(pki: Path, pool: ThreadPoolExecutor) -> None:
    asked: list[int] = []
    context = server_context(pki)

    def tls() -> ssl.SSLContext:
        asked.append(1)
        return context

    server = await net.serve("127.0.0.1", 0, Echo, tls=tls, handshakes=pool)
    idle = [await from_address("127.0.0.5", server.port) for _ in range(5)]
    assert asked == [] and len(server._shaking) == 5
    server.close()
    for each in idle:
        await asyncio.wait_for(each.lost.wait(), 5)


@both_loops
async def test_nobody_listens() -> None:
    server = await net.serve("127.0.0.1", 0, Echo, tls=None, handshakes=None)
    port = server.port
    with pytest.raises(Unavailable):
        await net.serve("127.0.0.1", port, Echo, tls=None, handshakes=None)
    server.close()
    with pytest.raises(Unavailable):
        await net.connect("127.0.0.1", port, Collect, tls=None)


@both_loops
async def test_a_server_that_never_answers(pki: Path) -> None:
    server = await net.serve("127.0.0.1", 0, lambda peer: asyncio.Protocol(), tls=None, handshakes=None)
    with pytest.raises(Unavailable, match="did not answer"):
        await net.connect("127.0.0.1", server.port, Collect, tls=client_context(pki), timeout_s=0.05)
    server.close()
