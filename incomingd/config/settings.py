"""Every setting of `incomingd`: kind, bounds, default, unit, what it is, why one would change it, what a reload does.

The reference file, the reference page, the JSON Schema, `--help` and the messages about mistakes are all made from
here. A key is declared when something honours it, never before: nobody shall set a key that does nothing.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from incomingd.config.declaring import DAY_S, HOUR_S, MINUTE_S, Group, KiB, MiB, TiB, setting
from incomingd.config.kinds import (
    Count,
    HostList,
    InstanceName,
    Mode,
    OptionalCount,
    OptionalName,
    OptionalSize,
    PathValue,
    RegistryUrlValue,
    Seconds,
    Size,
    Switch,
)
from incomingd.config.listeners import Admin, Agent, Backend, Peer, Public, Tls, host_name
from incomingd.config.redis_url import MEMORY
from incomingd.config.values import Address, Hosts, TcpAddress, parse_address

__all__ = ["Admin", "Agent", "Backend", "Peer", "Public", "Settings", "Tls"]

Durability = Literal["none", "completion", "acknowledgement"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]
ClientAddress = Literal["full", "masked", "none"]
FastPath = Literal["auto", "never"]


class Files(Group):
    """Files that are handed over by path."""

    mode: Mode = setting(
        default=0o640,
        ge=0o400,
        le=0o777,
        what="Permissions of a file that is handed over.",
        why="A web app of another Unix user must be able to read it. Refused at the start if it cannot be set.",
        reload=False,
    )
    group: OptionalName = setting(
        default=None,
        default_text="the daemon's own group",
        what="Group of a file that is handed over; the daemon must be a member of it.",
        why="Set it to the group of the web app, so that nobody else needs to be able to read files.",
        reload=False,
    )


class Handover(Group):
    """Handing a complete file to the web app: the callback."""

    timeout_s: Seconds = setting(
        default=55,
        ge=1,
        le=HOUR_S,
        unit="s",
        what="How long one callback may take until it counts as failed.",
        why="Longer where the web app copies large files during the callback; better is to answer `wait`.",
        reload=True,
    )
    confirm_timeout_s: Seconds = setting(
        default=600,
        ge=1,
        le=30 * DAY_S,
        unit="s",
        what="How long a web app that answered `wait` without a deadline of its own may take until it confirms.",
        why="Longer where its work on a file takes longer.",
        reload=True,
    )
    give_up_after_s: Seconds = setting(
        default=3 * DAY_S,
        ge=1,
        le=365 * DAY_S,
        unit="s",
        what="How long a callback is tried again and again. Then the file stays where it is, and `redeliver` starts"
        " anew.",
        why="Longer where a web app may be away over a holiday.",
        reload=True,
    )
    backoff_first_s: Seconds = setting(
        default=1,
        ge=0.01,
        le=HOUR_S,
        unit="s",
        what="The wait after the first failed callback; it doubles with each further one, with some jitter.",
        why="Longer to spare a web app that is slow to start.",
        reload=True,
    )
    backoff_max_s: Seconds = setting(
        default=HOUR_S,
        ge=0.01,
        le=DAY_S,
        unit="s",
        what="The longest wait between two callbacks.",
        why="Shorter to have files arrive sooner after a long outage of the web app.",
        reload=True,
    )
    concurrency: Count = setting(
        default=16,
        ge=1,
        le=1000,
        what="How many callbacks may be open at once.",
        why="Fewer where a web app breaks down under many; more where callbacks are slow and files are many.",
        reload=False,
    )
    allowed_hosts: HostList = setting(
        default=Hosts(None),
        what="Hosts that callbacks may go to; a ticket with another finish_url is refused.",
        why="List the web apps' hosts where those who get tickets are not fully trusted: a callback is a request from"
        " inside your network.",
        reload=True,
    )


class Records(Group):
    """What is remembered of uploads that have ended."""

    keep_s: Seconds = setting(
        default=7 * DAY_S,
        ge=0,
        le=365 * DAY_S,
        unit="s",
        what="How long the record of an upload is kept after its end, so that repeats get the same answer.",
        why="Longer where web apps look at ended uploads much later; shorter where there are millions.",
        reload=True,
    )


class Registry(Group):
    """Who is alive and who has which upload."""

    url: RegistryUrlValue = setting(
        default=MEMORY,
        what="Where the registry is: `memory:` for a single instance, a Redis (or the Sentinels that know where it is,"
        " or a Redis Cluster) for a fleet. `redis://user:password@host:6379/0`, `rediss://` with TLS,"
        " `redis+sentinel://user:password@one:26379,two:26379/primary/0`,"
        " `redis+cluster://user:password@one:6379,two:6379`. After `?` stand options: `prefix` of all keys,"
        " `ca_file`, `cert_file`, `key_file`, `sentinel_user`, `sentinel_password`.",
        why="All instances that share it are one fleet: each of them takes any upload. Needs peer.address and"
        " peer.keys.",
        reload=False,
    )
    lease_s: Seconds = setting(
        default=5,
        ge=1,
        le=MINUTE_S,
        unit="s",
        what="How long an instance counts as alive after its last sign of life. The same for the whole fleet.",
        why="Longer where instances or Redis stall for seconds; shorter to have the uploads of an instance that died"
        " go on sooner.",
        reload=False,
    )


class Uploads(Group):
    """How long uploads may take, and cleaning up after those that took longer."""

    expires_in_s: Seconds = setting(
        default=7 * DAY_S,
        ge=1,
        le=365 * DAY_S,
        unit="s",
        what="How long after its ticket an upload that is not complete expires, where the ticket does not say.",
        why="Shorter to have abandoned uploads free their space sooner.",
        reload=True,
    )
    expires_in_max_s: Seconds = setting(
        default=30 * DAY_S,
        ge=1,
        le=365 * DAY_S,
        unit="s",
        what="The longest expires_in_s that a ticket may ask for.",
        why="To bound how long an abandoned upload can hold its space.",
        reload=True,
    )
    sweep_interval_s: Seconds = setting(
        default=60,
        ge=0.1,
        le=DAY_S,
        unit="s",
        what="How often expired uploads and old records are looked for.",
        why="Longer on a volume with very many uploads; shorter in tests.",
        reload=True,
    )


class Limits(Group):
    """What one client, one request or one connection may take."""

    upload_bytes: OptionalSize = setting(
        default=None,
        ge=1,
        le=1024 * TiB,
        unit="bytes",
        what="The largest upload (Tus-Max-Size); a ticket may set less.",
        why="Set it to what your web apps can use at most.",
        reload=True,
    )
    free_space_reserve_bytes: Size = setting(
        default=64 * MiB,
        ge=0,
        le=1024 * TiB,
        unit="bytes",
        what="Kept free on the volume: an upload whose length would go below is refused with 507.",
        why="More where other programs need space on the same volume.",
        reload=False,
    )
    open_uploads_per_address: OptionalCount = setting(
        default=None,
        ge=1,
        le=1_000_000,
        what="How many uploads one client address may be sending at once.",
        why="Set it against clients that open very many; remember that a whole office may share one address.",
        reload=True,
    )
    body_idle_timeout_s: Seconds = setting(
        default=60,
        ge=1,
        le=HOUR_S,
        unit="s",
        what="After so long without a byte of a body the bytes are kept and the connection is closed; the client"
        " resumes. A download of which nothing was read for so long is ended, too.",
        why="Longer for clients behind links with long gaps; shorter to free connections sooner.",
        reload=True,
    )
    body_min_bytes_per_s: Count = setting(
        default=64,
        ge=0,
        le=MiB,
        unit="bytes/s",
        what="The average over a request's time that a body must reach; 0 switches this off. The bytes are kept all"
        " the same.",
        why="More against clients that hold connections by sending next to nothing.",
        reload=True,
    )
    body_min_rate_after_s: Seconds = setting(
        default=120,
        ge=1,
        le=HOUR_S,
        unit="s",
        what="The average is judged first after so long.",
        why="Longer for links that start slowly.",
        reload=True,
    )
    upload_bytes_per_s: OptionalSize = setting(
        default=None,
        ge=KiB,
        le=TiB,
        unit="bytes/s",
        what="How fast one upload is taken, all its parts together. Who sends faster is held back by the network, never"
        " cut, and not taken for slow. Each instance counts for itself.",
        why="So that no single upload takes what all others need.",
        reload=True,
    )
    address_bytes_per_s: OptionalSize = setting(
        default=None,
        ge=KiB,
        le=TiB,
        unit="bytes/s",
        what="How fast the uploads of one client address (IPv6: one /64 network) are taken, all together. Each instance"
        " counts for itself, so a client whose uploads are spread over several gets as much of each.",
        why="So that no client takes what all others need; remember that a whole office may share one address.",
        reload=True,
    )
    total_bytes_per_s: OptionalSize = setting(
        default=None,
        ge=KiB,
        le=TiB,
        unit="bytes/s",
        what="How fast all uploads together are taken by this instance. All get their turns one after the other.",
        why="To leave room on the network or the disks for other programs. A fleet takes as many times that as it has"
        " instances.",
        reload=True,
    )
    header_bytes: Size = setting(
        default=16 * KiB,
        ge=KiB,
        le=MiB,
        unit="bytes",
        what="The longest header section of a request.",
        why="More where a proxy adds much, or where cookies of the same domain are large.",
        reload=False,
    )
    idle_connection_timeout_s: Seconds = setting(
        default=75,
        ge=1,
        le=HOUR_S,
        unit="s",
        what="How long a connection may wait for its next request, up to the end of that request's header section.",
        why="A little longer than the proxy in front keeps its connections, so that it never sends into a closed one;"
        " shorter against clients that send a header section byte by byte.",
        reload=False,
    )
    connections: Count = setting(
        default=10_000,
        ge=1,
        le=1_000_000,
        what="How many connections a listener holds at once.",
        why="Keep it below the limit of open files: an upload needs a connection, a file and a pipe.",
        reload=True,
    )
    connections_per_address: OptionalCount = setting(
        default=None,
        ge=1,
        le=1_000_000,
        what="How many connections to the public listener one client address (IPv6: one /64 network) may have; further"
        " ones are closed. Those of public.trusted_proxies do not count: behind a proxy it is up to the proxy, unless"
        " it says by the PROXY protocol whose connection it is.",
        why="Against clients that take all connections for themselves; remember that a whole office may share one"
        " address, and that browsers open six.",
        reload=True,
    )
    metadata_bytes: Size = setting(
        default=8 * KiB,
        ge=256,
        le=MiB,
        unit="bytes",
        what="The longest Upload-Metadata header.",
        why="More where clients send much about a file; the whole header section must fit limits.header_bytes.",
        reload=True,
    )


class Tus(Group):
    """The tus protocol."""

    checksum_trailer: Switch = setting(
        default=True,
        what="Whether the extension checksum-trailer is offered.",
        why="Switch it off behind a proxy that drops trailers, as nginx does.",
        reload=True,
    )


class Storage(Group):
    """How bytes get to the volume."""

    threads: Count = setting(
        default=16,
        ge=1,
        le=1024,
        what="How many threads move bytes and wait for the disk.",
        why="More for slow volumes (NFS, spinning disks) with many clients; fewer on a small machine.",
        reload=False,
    )
    fast_path: FastPath = setting(
        default="auto",
        what="`auto`: large bodies of a known length that come unencrypted go from the socket to the file inside the"
        " kernel (Linux); all others, and with `never` all, are read and written by the daemon, with the same results.",
        why="`never` to find out whether a problem has to do with it.",
        reload=False,
    )


class Drain(Group):
    """Emptying an instance, so that nobody notices when it is stopped."""

    deadline_s: Seconds = setting(
        default=30,
        ge=0,
        le=DAY_S,
        unit="s",
        what="How long a drain after SIGTERM may take until the daemon stops all the same; what is left stays on the"
        " volume.",
        why="Longer where other instances do not reach this one's volume, and bytes have to be moved; 0 stops without"
        " a drain. Stay below the time after which your service manager kills.",
        reload=True,
    )
    cuts_per_s: Count = setting(
        default=500,
        ge=1,
        le=100_000,
        unit="1/s",
        what="How many appends are cut in a second at most. Their clients come back at once, to other instances, and"
        " wait there for one another; so the cuts are spread over 3 s where that takes fewer in a second.",
        why="Fewer where the other instances or the disk cannot take so many in a second.",
        reload=True,
    )


class Shutdown(Group):
    """Stopping the daemon."""

    grace_s: Seconds = setting(
        default=10,
        ge=0,
        le=HOUR_S,
        unit="s",
        what="How long open requests may go on after SIGTERM until they are cut; what has arrived is kept.",
        why="Stay below the time after which your service manager kills (systemd: TimeoutStopSec).",
        reload=True,
    )


class Log(Group):
    """The log, on standard error."""

    level: LogLevel = setting(
        default="info",
        what="The least level that is logged.",
        why="`debug` to follow a single problem; `warning` where `info` is too much.",
        reload=True,
    )
    format: LogFormat = setting(
        default="auto",
        what="`json`: a JSON object a line; `console`: text for people; `auto`: console on a terminal, else JSON.",
        why="`json` to read in a terminal what a log collector will get.",
        reload=True,
    )
    client_address: ClientAddress = setting(
        default="full",
        what="Clients' addresses in the log: `full`, `masked` (to /24 and /48), or `none`.",
        why="Where the law or your promise to users says so.",
        reload=True,
    )


class Settings(Group):
    """The effective configuration. `Settings()` is what the daemon runs with when nothing is configured."""

    instance: InstanceName = setting(
        default="localhost:4000",
        default_text="host name and public port",
        what="This instance's name in logs and metrics.",
        why="Where the host's name says nothing, as in containers.",
        reload=False,
    )
    data_dir: PathValue = setting(
        default="./incoming-data",
        default_text="$STATE_DIRECTORY, else ./incoming-data",
        what="The directory volume: uploads and what is known of them.",
        why="Put it where there is room for all uploads at once, on the file system from which web apps take their"
        " files.",
        reload=False,
    )
    durability: Durability = setting(
        default="acknowledgement",
        what="What survives a power loss: `acknowledgement`: every byte that a client was told is kept; `completion`:"
        " every complete file; `none`: what the kernel has written by then. A crash of the daemon alone loses"
        " nothing in any case.",
        why="`completion` spares disk syncs where clients may send again after a power loss.",
        reload=False,
    )
    hold_s: Seconds = setting(
        default=10,
        ge=0,
        le=MINUTE_S,
        unit="s",
        what="How long a request is held that cannot be answered truly yet.",
        why="Shorter where a proxy in front gives up sooner.",
        reload=True,
    )
    public: Public = Public()
    backend: Backend = Backend()
    admin: Admin = Admin()
    peer: Peer = Peer()
    agent: Agent = Agent()
    files: Files = Files()
    handover: Handover = Handover()
    records: Records = Records()
    registry: Registry = Registry()
    uploads: Uploads = Uploads()
    limits: Limits = Limits()
    tus: Tus = Tus()
    storage: Storage = Storage()
    drain: Drain = Drain()
    shutdown: Shutdown = Shutdown()
    log: Log = Log()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """Fill in the defaults that depend on another group: admin.address, admin.tls and instance."""
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        admin = filled.get("admin", {})
        if isinstance(admin, dict):
            filled["admin"] = _share_with_backend(admin, filled.get("backend", {}))
        if "instance" not in filled:
            public = _address_in(filled.get("public"), Public)
            filled["instance"] = f"{host_name()}:{public.port}" if isinstance(public, TcpAddress) else host_name()
        return filled


def _share_with_backend(admin: dict[str, Any], backend: object) -> dict[str, Any]:
    """Give the admin group the backend's address, and with that address its TLS, where it says nothing of its own."""
    address = _address_in(backend, Backend)
    shared = "address" not in admin or _address_in(admin, Admin) == address
    tls = backend.get("tls", Tls()) if isinstance(backend, Mapping) else getattr(backend, "tls", Tls())
    return {"address": address, **({"tls": tls} if shared else {}), **admin}


def _address_in(group: object, kind: type[Public | Backend | Admin]) -> Address:
    """Find the address of a listener in a group that is not validated yet; a wrong one is refused in its own place."""
    default: Address = kind.model_fields["address"].default
    if isinstance(group, kind):
        return group.address
    try:
        return parse_address(group["address"]) if isinstance(group, Mapping) and "address" in group else default
    except ValueError:
        return default
