"""The settings of the listeners: public, backend, admin, peer, agent."""

import re
import socket
from typing import Any

from incomingd.config.declaring import Group, KiB, TiB, setting
from incomingd.config.kinds import (
    AddressValue,
    BaseUrl,
    KeyList,
    OptionalPath,
    OptionalSize,
    OptionalTcpAddress,
    OptionalUrl,
    OriginList,
    ProxyList,
    Switch,
    TokenList,
)
from incomingd.config.values import Origins, TcpAddress, TrustedProxies, UnixAddress


class Tls(Group):
    """Certificate and key of a listener; without them it speaks plain HTTP."""

    cert: OptionalPath = setting(
        default=None,
        what="PEM file with the certificate and those between it and the root.",
        why="Set it, with the key, where the listener is reached without a proxy that speaks TLS. Read again at a"
        " reload.",
        reload=True,
    )
    key: OptionalPath = setting(
        default=None,
        what="PEM file with the private key, without a pass phrase.",
        why="Together with the certificate.",
        reload=True,
    )

    @property
    def enabled(self) -> bool:
        """Whether the listener speaks HTTPS."""
        return self.cert is not None


class Public(Group):
    """The listener for browsers and other clients that upload."""

    address: AddressValue = setting(
        default=TcpAddress("0.0.0.0", 4000),  # noqa: S104 - this is the listener that is meant for the world
        what="Where browsers connect.",
        why="Another port, one interface only, or a Unix socket behind a proxy on the same machine.",
        reload=False,
    )
    base_url: OptionalUrl = setting(
        default=None,
        what="What stands before the path in the addresses of uploads.",
        why="Set it where pages come from another origin than uploads go to, and clients other than incoming.js need"
        " whole URLs. Unset, addresses are paths, and the library uses the origin that it was loaded from.",
        reload=True,
    )
    tls: Tls = Tls()
    allowed_origins: OriginList = setting(
        default=Origins(None),
        what="The origins whose pages may upload; a page of another gets 403.",
        why="By default all may, since the URL of an upload is the permission. List your own so that nobody else's"
        " page can be used with a URL that leaked.",
        reload=True,
    )
    trusted_proxies: ProxyList = setting(
        default=TrustedProxies(()),
        what="Networks (and `unix`, for a Unix socket) whose word is taken for the client's address and scheme:"
        " Forwarded, X-Forwarded-*.",
        why="Set it to the addresses of your proxy or load balancer, else every client seems to be the proxy.",
        reload=True,
    )
    open_creation: Switch = setting(
        default=False,
        what="Whether anyone may create uploads without a ticket.",
        why="Only for trying out stock clients, or where something before this service decides who may.",
        reload=True,
    )


def _base_url_of(backend: dict[str, Any]) -> str:
    """Make backend.base_url from the listener's address. A Unix socket gives none: its text is refused later."""
    address, tls = backend.get("address"), backend.get("tls")
    if isinstance(address, UnixAddress):
        return str(address)
    if not isinstance(address, TcpAddress):
        return "http://address.invalid"  # the address is refused itself, this value is never used
    scheme = "https" if isinstance(tls, Tls) and tls.enabled else "http"
    return f"{scheme}://{TcpAddress(host_name(), address.port) if address.is_wildcard else address}"


def host_name() -> str:
    """Give this machine's name as far as an instance's name or a URL can hold it."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).strip("-.")[:48] or "localhost"


class Backend(Group):
    """The listener for the backends of web apps. It is not for the world."""

    address: AddressValue = setting(
        default=TcpAddress("127.0.0.1", 4001),
        what="Where web apps connect to get tickets.",
        why="Web apps on other machines need an address that they reach; set tokens then.",
        reload=False,
    )
    tls: Tls = Tls()
    base_url: BaseUrl = setting(
        default_from=_base_url_of,
        default_text="made from backend.address",
        what="What stands before the path in the download URLs that callbacks tell web apps.",
        why="Set it where web apps reach this listener under another name, or where it is a Unix socket.",
        reload=False,
    )
    tokens: TokenList = setting(
        default=(),
        what="Bearer tokens of web apps; each is accepted. Without any, whoever reaches the listener may call it.",
        why="Set one for each web app, above all where the listener is not on the loopback interface. To change a"
        " token, have both here for a while.",
        reload=True,
        secret=True,
    )
    tokens_file: OptionalPath = setting(
        default=None,
        what="File with the tokens, one a line; used instead of backend.tokens.",
        why="Keeps secrets out of this file, of the environment and of the list of processes.",
        reload=True,
    )


class Admin(Group):
    """The listener for operators, health checks and Prometheus. Whoever reaches it may do everything."""

    address: AddressValue = setting(
        default=TcpAddress("127.0.0.1", 4001),
        default_text="the same as backend.address",
        what="Where operators, `incomingctl` and Prometheus connect. With the backend's address both share one"
        " listener.",
        why="Give it a port or a Unix socket of its own when web apps shall not reach it.",
        reload=False,
    )
    tls: Tls = Tls()


class PeerTls(Tls):
    """Certificate and key for other instances, and who may have signed theirs."""

    ca: OptionalPath = setting(
        default=None,
        default_text="whom this machine trusts",
        what="PEM file with the certificates that sign those of the instances.",
        why="Set it where the fleet's certificates come from an authority of your own.",
        reload=True,
    )


def _advertised(peer: dict[str, Any]) -> TcpAddress | None:
    address = peer.get("address")
    if not isinstance(address, TcpAddress):
        return None
    return TcpAddress(host_name(), address.port) if address.is_wildcard else address


class Peer(Group):
    """The listener for the other instances of the fleet."""

    address: OptionalTcpAddress = setting(
        default=None,
        what="Where other instances connect. Needs peer.keys.",
        why="A fleet needs it: uploads move between instances over it. It is not for the world.",
        reload=False,
    )
    advertised_address: OptionalTcpAddress = setting(
        default_from=_advertised,
        default_text="peer.address; this host's name with its port where that is a wildcard",
        what="The address of that listener as other instances are told.",
        why="Set it where they reach this instance under another name or port, as with containers.",
        reload=False,
    )
    keys: KeyList = setting(
        default=(),
        what="The keys by which the instances of a fleet know each other. The first one signs, all are accepted.",
        why="A fleet needs one, the same everywhere. To change it: append the new one everywhere, then put it first"
        " everywhere, then remove the old one.",
        reload=True,
        secret=True,
    )
    keys_file: OptionalPath = setting(
        default=None,
        what="File with the keys, one a line; used instead of peer.keys.",
        why="Keeps secrets out of this file, of the environment and of the list of processes.",
        reload=True,
    )
    allow_plaintext: Switch = setting(
        default=False,
        what="Whether instances may talk to each other without TLS over a network.",
        why="Only where nobody can listen in: what instances say is signed all the same, but not hidden.",
        reload=True,
    )
    backfill_bytes_per_s: OptionalSize = setting(
        default=None,
        ge=KiB,
        le=TiB,
        unit="bytes/s",
        what="How fast the earlier bytes of an upload are copied here from an instance whose volume this one does not"
        " reach; for each upload. `none`: as fast as the network and the disks.",
        why="Where drains take what clients need of the network. A drain waits for these copies, so it takes longer.",
        reload=True,
    )
    tls: PeerTls = PeerTls()

    @property
    def listens(self) -> bool:
        """Whether there is a peer listener."""
        return self.address is not None and bool(self.keys)

    @property
    def url(self) -> str:
        """What other instances are told of where this one is: scheme, host and port; empty without a peer listener."""
        if not self.listens:
            return ""
        return f"{'https' if self.tls.enabled else 'http'}://{self.advertised_address or self.address}"


class Agent(Group):
    """The listener for the load balancer's agent check: one line, whether this instance wants requests."""

    address: OptionalTcpAddress = setting(
        default=None,
        what="Where HAProxy's agent check connects.",
        why="Behind HAProxy, so that it hears at once when this instance is drained. Whoever connects hears one word"
        " and can do nothing; it is not for the world all the same.",
        reload=False,
    )
