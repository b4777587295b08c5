"""Who gets a link, who does not, and what both ends are told."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from experts.transport import hello, shared_memory
from experts.transport.address import TcpAddress, UnixAddress, parse
from experts.transport.curve_keys import CurveKeys
from experts.transport.errors import PeerLostError, RefusedError
from experts.transport.hub import Hub
from experts.transport.link import Identity, LinkSettings
from experts.transport.remote_link import Kind, message
from experts.transport.zmq_socket import Socket
from infra.errors import ConfigError
from tests.experts.transport import peer_process as peers
from tests.experts.transport.peer_process import LIMIT_S, MODEL, SECRET, SETTINGS

OTHER_SECRET = "the secret of another cluster"


@contextlib.contextmanager
def waiting(host: Hub) -> Iterator[None]:
    """Its waits run in a thread."""
    is_over = threading.Event()

    def wait() -> None:
        while not is_over.is_set():
            host.wait(LIMIT_S)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        host.wake()
        thread.join()


@contextlib.contextmanager
def listening(address: str, settings: LinkSettings = SETTINGS) -> Iterator[str]:
    with peers.hub("host", settings) as host:
        where = host.listen(address)
        with waiting(host):
            yield where
        host.check_invariants()


def refused(engine: Hub, where: str) -> str:
    with pytest.raises(RefusedError) as caught:
        engine.dial(where)
    assert engine.links == ()
    return str(caught.value)


def engine_of(model: str = MODEL, **limits: Any) -> Hub:
    return Hub(Identity("engine", model), replace(SETTINGS, **limits), SECRET)


def test_both_ends_know_each_others_name_and_the_largest_frame(address: str) -> None:
    with peers.hub("host") as host, engine_of(max_frame_bytes=1000) as engine:
        where = host.listen(address)
        with waiting(host):
            link = engine.dial(where)
        (twin,) = host.links
        assert (link.peer, link.max_frame_bytes) == ("host", 1000)
        assert (twin.peer, twin.max_frame_bytes) == ("engine", 1000)


def test_another_model_is_refused(address: str, caplog: pytest.LogCaptureFixture) -> None:
    reason = f"it serves the model sha256:other, here it is {MODEL}"
    with listening(address) as where, engine_of("sha256:other") as engine:
        assert reason in refused(engine, where)
    assert caplog.messages == [f"refused a link: {reason}"]


def test_larger_frames_than_the_hosts_are_refused(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(address) as where, engine_of(max_frame_bytes=10**6) as engine:
        assert "it wants frames of 1000000 bytes, here they have at most 65536" in refused(
            engine, where
        )
    assert "1000000 bytes" in caplog.text


def test_another_release_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = hello.hello_of
    newer = lambda *given: msgspec.structs.replace(made(*given), version=2)  # noqa: E731
    monkeypatch.setattr(hello, "hello_of", newer)
    with listening(address) as where, engine_of() as engine:
        assert "it speaks version 2.1, here it is 1.1" in refused(engine, where)


def test_what_a_later_release_says_more_is_passed_over() -> None:
    said = msgspec.to_builtins(hello.Hello(9, 9, "engine", MODEL, 10)) | {"more": [1, 2]}
    assert hello.read_hello(msgspec.msgpack.encode(said)).version == 9


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xc1", b"\x80", hello.encode(hello.Welcome("x"))]
)
def test_first_words_that_make_no_sense_are_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        hello.read_hello(data)


def test_first_words_that_make_no_sense_hang_up_a_local_host_that_goes_on(
    socket_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = f"unix://{socket_folder}/host"
    with listening(where), local_socket(socket_folder / "host") as stranger:
        stranger.send(b"GET / HTTP/1.1")
        assert stranger.recv(100) == b""
        with engine_of() as engine:
            assert engine.dial(where).peer == "host"
    assert "first words of a link make no sense" in caplog.text


def test_a_hello_without_descriptors_is_refused(socket_folder: Path) -> None:
    with (
        listening(f"unix://{socket_folder}/host"),
        local_socket(socket_folder / "host") as stranger,
    ):
        stranger.send(hello.encode(hello.hello_of(Identity("x", MODEL), 10)))
        assert stranger.recv(100) == b""


@contextlib.contextmanager
def local_socket(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as found:
        found.connect(str(path))
        found.settimeout(LIMIT_S)
        yield found


def test_a_process_of_another_user_is_refused(
    socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(f"unix://{socket_folder}/host") as where, engine_of() as engine:
        own = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: own + 1)
        assert f"belongs to user {own}" in refused(engine, where)
        with local_socket(socket_folder / "host") as stranger:
            assert stranger.recv(100) == b""


def test_who_says_nothing_keeps_nobody_out(socket_folder: Path) -> None:
    where = f"unix://{socket_folder}/host"
    with contextlib.ExitStack() as stack:
        stack.enter_context(listening(where))
        silent = [stack.enter_context(local_socket(socket_folder / "host")) for _ in range(100)]
        engine = stack.enter_context(engine_of())
        assert engine.dial(where).peer == "host"
        assert silent[0].recv(100) == b""


def test_a_host_with_another_secret_lets_nobody_in() -> None:
    with (
        listening("tcp://127.0.0.1:0") as where,
        Hub(Identity("engine", MODEL), SETTINGS, OTHER_SECRET) as engine,
    ):
        started = time.monotonic()
        assert "give both ends the cluster's secret" in refused(engine, where)
        assert time.monotonic() - started < LIMIT_S / 2


def set_nothing(dialer: Socket) -> None:
    """No encryption at all."""


def know_the_host(dialer: Socket) -> None:
    """The host's public key, and a key of its own."""
    dialer.curve_publickey, dialer.curve_secretkey = zmq.curve_keypair()
    dialer.curve_serverkey = CurveKeys.of(SECRET).host.public


def be_the_host(dialer: Socket) -> None:
    """Both of the host's keys."""
    keys = CurveKeys.of(SECRET)
    dialer.curve_publickey, dialer.curve_secretkey = keys.host.public, keys.host.secret
    dialer.curve_serverkey = keys.host.public


def be_an_engine(dialer: Socket) -> None:
    CurveKeys.of(SECRET).prove(dialer)


@pytest.mark.parametrize("keys", [set_nothing, know_the_host, be_the_host])
def test_who_does_not_hold_the_secret_gets_nothing(
    keys: Callable[[Socket], None],
) -> None:
    with peers.hub("host") as host:
        where = host.listen("tcp://127.0.0.1:0")
        with waiting(host):
            assert said_to(where, be_an_engine) is not None
            assert said_to(where, keys) is None
        # The engine that got in has hung up.
        assert [link.is_ready for link in host.links] in ([], [True])


def said_to(where: str, keys: Callable[[Socket], None]) -> bytes | None:
    """The host's answer to a Hello that is right, or None where it does not come."""
    context = zmq.Context()
    dialer = context.socket(zmq.DEALER)
    dialer.linger = 0
    keys(dialer)
    monitor = dialer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        dialer.connect(where)
        said = hello.encode(hello.hello_of(Identity("engine", MODEL), 1000))
        dialer.send(message(Kind.HELLO, said))
        poller = zmq.Poller()
        poller.register(dialer, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        assert poller.poll(int(1000 * LIMIT_S))
        return dialer.recv() if dialer.poll(0) else None
    finally:
        dialer.disable_monitor()
        context.destroy(linger=0)


def test_keys_are_the_same_for_all_who_hold_the_secret_and_differ_by_role() -> None:
    keys = CurveKeys.of(SECRET)
    assert CurveKeys.of(f"{SECRET}\n") == keys
    publics = {keys.host.public, keys.engine.public, CurveKeys.of(OTHER_SECRET).host.public}
    assert len(publics) == 3
    assert SECRET not in repr(keys)
    assert keys.host.secret.decode() not in repr(keys)


def test_links_between_nodes_need_a_secret() -> None:
    with Hub(Identity("host", MODEL)) as hub, pytest.raises(ConfigError, match="secret"):
        hub.listen("tcp://127.0.0.1:0")


def test_nobody_answers_where_nobody_listens(address: str) -> None:
    with listening(address) as where:
        pass
    with engine_of() as engine, pytest.raises(PeerLostError, match="nobody answers"):
        engine.dial(where)


def test_a_host_that_does_not_wait_does_not_answer(address: str) -> None:
    with peers.hub("host") as host, engine_of(set_up_timeout_s=0.05) as engine:
        where = host.listen(address)
        with pytest.raises(PeerLostError):
            engine.dial(where)
        assert engine.links == ()


def test_a_port_that_is_taken_is_a_mistake_of_the_operators() -> None:
    with peers.hub("host") as host:
        where = host.listen("tcp://127.0.0.1:0")
        with pytest.raises(ConfigError, match="cannot listen at tcp"):
            host.listen(where)


def test_a_folder_that_others_may_enter_is_refused(socket_folder: Path) -> None:
    socket_folder.chmod(0o755)
    with peers.hub("host") as host, pytest.raises(ConfigError, match="chmod it to 0700"):
        host.listen(f"unix://{socket_folder}/host")


def test_a_folder_that_is_not_there_is_made_for_its_owner_alone(socket_folder: Path) -> None:
    with peers.hub("host") as host:
        host.listen(f"unix://{socket_folder}/run/host")
        assert (socket_folder / "run").stat().st_mode & 0o777 == 0o700
    assert list((socket_folder / "run").iterdir()) == []


def test_the_socket_of_a_dead_host_is_taken_over_and_that_of_a_live_one_is_not(
    socket_folder: Path,
) -> None:
    where = f"unix://{socket_folder}/host"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(socket_folder / "host"))
    with listening(where), peers.hub("second") as second:
        with pytest.raises(ConfigError, match="in use"):
            second.listen(where)
        with engine_of() as engine:
            assert engine.dial(where).peer == "host"


def test_a_file_that_is_no_socket_is_left_alone(socket_folder: Path) -> None:
    path = socket_folder / "host"
    path.write_text("precious")
    with peers.hub("host") as host, pytest.raises(ConfigError, match="in use"):
        host.listen(f"unix://{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:///run/h", UnixAddress(Path("/run/h"))),
        ("tcp://127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("tcp://[::1]:80", TcpAddress("::1", 80)),
    ],
)
def test_an_address_is_read(text: str, expected: UnixAddress | TcpAddress) -> None:
    assert parse(text) == expected
    assert isinstance(expected, UnixAddress) or expected.url == text


@pytest.mark.parametrize(
    "text",
    [
        "", "run/h", "unix://run/h", "unix:h", "tcp://h", "tcp://:1", "tcp://h:x", "tcp://h:99999",
        "tcp://h:1/x", "http://h:1", "tcp://u:p@h:1", "unix:///h?x", f"unix:///{'x' * 107}",
    ],
)  # fmt: skip
def test_what_is_no_address_is_a_mistake_of_the_operators(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


def test_memory_that_could_be_cut_off_is_refused() -> None:
    fd = os.memfd_create("unsealed")
    sealed, _ = shared_memory.make(4096)
    try:
        os.ftruncate(fd, 4096)
        with pytest.raises(RefusedError):
            shared_memory.attach(fd, 4096, is_writable=False)
        with pytest.raises(RefusedError):
            shared_memory.attach(sealed, 8192, is_writable=False)
        with pytest.raises(PermissionError):
            os.ftruncate(sealed, 0)
    finally:
        os.close(fd)
        os.close(sealed)
