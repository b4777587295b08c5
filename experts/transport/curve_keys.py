"""Who gets in between nodes: processes that hold the cluster's secret, and nobody else.

Both ends make the same two key pairs of the secret, one for hosts and one for engines.
CURVE (CurveZMQ, RFC 26 of ZeroMQ; Curve25519, XSalsa20 and Poly1305) proves to the engine
that the host has the host's key, and to the host that the engine has the engine's; what
they send is encrypted and authenticated with keys of this one connection.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from experts.transport.zmq_socket import Context, Socket, fd_of, has_message

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_DOMAIN = b"coterie-experts"
_PERSON = b"coterie experts"


@dataclass(frozen=True)
class KeyPair:
    """In the text form of ZeroMQ (Z85)."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: str, role: bytes) -> "KeyPair":
        """Of 32 bytes that BLAKE2b makes of the cluster's secret and the role."""
        seed = hashlib.blake2b(secret.encode(), digest_size=32, person=_PERSON, salt=role)
        key = z85.encode(seed.digest())
        return cls(zmq.curve_public(key), key)


@dataclass(frozen=True)
class CurveKeys:
    """Those of all hosts and those of all engines of a cluster."""

    host: KeyPair
    engine: KeyPair

    @classmethod
    def of(cls, secret: str) -> "CurveKeys":
        """Of the cluster's secret, with any ends of lines taken off."""
        text = secret.strip()
        assert text, "an empty secret is none"
        return cls(KeyPair.of(text, b"host"), KeyPair.of(text, b"engine"))

    def guard(self, listener: Socket) -> None:
        """Before it is bound: let in whom a `Gatekeeper` of its context lets in."""
        listener.curve_server = True
        listener.curve_secretkey = self.host.secret
        listener.zap_domain = _DOMAIN
        # Without it, everybody gets in where no gatekeeper is.
        listener.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def prove(self, dialer: Socket) -> None:
        """Before it is connected: who it is, and whom it expects."""
        dialer.curve_secretkey = self.engine.secret
        dialer.curve_publickey = self.engine.public
        dialer.curve_serverkey = self.host.public


class Gatekeeper:
    """Answers a context's questions who may get in (ZAP, RFC 27 of ZeroMQ)."""

    def __init__(self, context: Context, keys: CurveKeys) -> None:
        self._expected = z85.decode(keys.engine.public)
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_ZAP_ENDPOINT)

    @property
    def fd(self) -> int:
        """Can be read from when there may be a question."""
        return fd_of(self._socket)

    def answer(self) -> None:
        """Answer all questions that have come. Never waits."""
        while has_message(self._socket):
            version, number, *asked = self._socket.recv_multipart(zmq.NOBLOCK)
            status = b"200" if self._may_enter(asked) else b"400"
            self._socket.send_multipart([version, number, status, b"", b"", b""])

    def close(self) -> None:
        """Nobody gets in any more."""
        self._socket.close()

    def _may_enter(self, asked: list[bytes]) -> bool:
        if len(asked) != 5 or asked[0] != _DOMAIN or asked[3] != b"CURVE":
            return False
        return hmac.compare_digest(asked[4], self._expected)
