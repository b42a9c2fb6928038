"""What the rest of the program may ask of a registry.

Everything here is soft state. An answer that is wrong, old or missing costs a
move or a look at a volume, never a byte; so nothing here is ever a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from incomingd.core.ring import Instance
    from incomingd.core.tenure import Identity

Ownership: TypeAlias = "tuple[Identity, int]"
"""Who seems to own an upload, and the epoch."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A parked upload that an instance is asked to pull. It obliges nobody."""

    upload_id: str
    epoch: int
    """Of the tenure that was parked; an invitation to any other is void."""
    by: Identity
    """Who parked it."""


class Trouble(Enum):
    """The stable name of what is wrong with a registry."""

    NOT_TRIED = "registry_not_tried"
    UNREACHABLE = "registry_unreachable"
    TIMED_OUT = "registry_timed_out"
    LOGIN_REFUSED = "registry_login_refused"
    TLS_FAILED = "registry_tls_failed"
    NO_PRIMARY = "registry_no_primary"
    READ_ONLY = "registry_read_only"
    LOADING = "registry_loading"
    FULL = "registry_full"
    NOT_PERMITTED = "registry_not_permitted"
    OTHER_KIND = "registry_other_kind"
    ERROR = "registry_error"

    @property
    def of_one_command(self) -> bool:
        """Whether the server answers, and another command may well succeed."""
        return self in {Trouble.NOT_PERMITTED, Trouble.ERROR}


class RegistryUnavailableError(Exception):
    """The registry cannot be asked now. Whoever owns uploads goes on receiving them."""

    def __init__(self, trouble: Trouble, sentence: str) -> None:
        super().__init__(sentence)
        self.trouble = trouble
        self.sentence = sentence
        """For operators; holds no password."""


# -- what a registry tells by itself


@dataclass(frozen=True, slots=True)
class AvailabilityChanged:
    """The registry is out of reach, or back."""

    trouble: RegistryUnavailableError | None
    """What is wrong; None: it answers."""


@dataclass(frozen=True, slots=True)
class SettledChanged:
    """A missing lease now means that its instance is gone, or no longer does."""

    settled: bool


@dataclass(frozen=True, slots=True)
class GenerationChanged:
    """The registry has lost what it knew, or may have: emptied, or another server.

    What this instance owns is published again without anybody's doing.
    """

    generation: str
    run_id: str


@dataclass(frozen=True, slots=True)
class InstancesChanged:
    """Leases began or ended, or an instance says something else of itself."""

    instances: tuple[Instance, ...]
    """All that live now, this one among them."""
    came: tuple[Instance, ...]
    gone: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class InvitationsWaiting:
    """Somebody invites this instance: call :meth:`Registry.invitations`. Repeated until that is done."""

    count: int


@dataclass(frozen=True, slots=True)
class OwnershipContradicted:
    """This instance publishes an ownership, but another stands against it.

    Look at the volume; then :meth:`Registry.corrected`, or let go of the upload.
    """

    upload_id: str
    stands: Ownership


@dataclass(frozen=True, slots=True)
class NameShared:
    """Another process keeps a lease under this instance's name: two are configured alike, or a former run goes on."""

    other: Identity


@dataclass(frozen=True, slots=True)
class ValueUnreadable:
    """A value in the registry is damaged or of a format that this program does not read; it counts as missing."""

    what: str
    """`lease`, `ownership`, `invitation` or `key`."""
    of: str
    """The lease's id, the upload's or the key: to be shortened before it is shown."""
    reason: str


Event: TypeAlias = (
    AvailabilityChanged
    | SettledChanged
    | GenerationChanged
    | InstancesChanged
    | InvitationsWaiting
    | OwnershipContradicted
    | NameShared
    | ValueUnreadable
)


class Registry(Protocol):
    """Leases of instances, who seems to own which upload, and invitations.

    Methods that ask raise :class:`RegistryUnavailableError`, within about a
    second, or at once while :attr:`available` is false. Methods that tell
    (`owned`, `released`, `corrected`, `advertise`) never raise it for one's own
    uploads and lease: what could not be told is told when the registry is back.
    """

    # -- itself

    @property
    def instance(self) -> Instance:
        """What this instance says of itself."""

    @property
    def available(self) -> bool:
        """Whether the last contact succeeded."""

    @property
    def settled(self) -> bool:
        """Whether a missing lease means that its instance is gone.

        One lease time after this instance last saw a new generation, another
        server or the registry come back, every living instance has had the
        time to renew its lease.
        """

    @property
    def lease_holds(self) -> bool:
        """Whether this instance's own lease surely runs; if not, peers may take it for gone."""

    async def start(self) -> None:
        """Take the lease and keep it renewed. Returns after the first try, whether or not it succeeded."""

    async def renew(self) -> bool:
        """Try to renew the lease now; return whether it holds."""

    async def advertise(self, instance: Instance) -> None:
        """Say something else of this instance, such as that it drains.

        Args:
            instance: :attr:`instance`, with what has changed; its identity never does.
        """

    def watch(self, heard: Callable[[Event], None]) -> Callable[[], None]:
        """Call *heard* with every event from now on, on the event loop; return what ends that."""

    async def close(self) -> None:
        """Give up this instance's lease."""

    # -- instances

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Those whose leases ran when last looked, this one among them; for ranking without waiting."""

    async def live(self) -> list[Identity]:
        """Return the instances whose leases run now, the caller's own among them.

        Raises:
            RegistryUnavailableError: nobody knows.
        """

    async def lapsed(self, identity: Identity) -> bool:
        """Return whether that run of that instance seems gone: settled, and no lease. Never raises; in doubt False."""

    # -- ownership

    async def owner_of(self, upload_id: str) -> Ownership | None:
        """Return who seems to own the upload, and the epoch; None: nobody known.

        Raises:
            RegistryUnavailableError: nobody knows.
        """

    async def owned(self, upload_id: str, owner: Identity, epoch: int) -> Ownership | None:
        """Publish an ownership. It yields to a higher epoch, and to another owner of the same one.

        One's own is kept published, until it is released.

        Returns:
            What stands against it; None: it was published, or will be when the registry is back.
        """

    async def corrected(
        self, upload_id: str, replaced: Ownership, owner: Identity | None, epoch: int
    ) -> Ownership | None:
        """Replace an entry that the volume contradicts, whatever its epoch, if it still is the one named.

        Args:
            upload_id: whose.
            replaced: the entry that is wrong.
            owner: who owns the upload as the volume says; None: nobody, the entry goes.
            epoch: of that tenure.

        Returns:
            Another entry that meanwhile stands there, untouched; None: done, or the registry is away.
        """

    async def released(self, upload_id: str, owner: Identity, epoch: int) -> None:
        """Take an ownership back, unless another owner's or a later one is published.

        Args:
            upload_id: whose.
            owner: who gives it up.
            epoch: the last of its tenures; what is published may be an earlier one.
        """

    # -- keys of web apps

    async def upload_of(self, key: str) -> str | None:
        """Return the id of the upload that a web app's key has led to at any instance; None: nobody knows of one.

        Args:
            key: a digest of it, in hex.

        Raises:
            RegistryUnavailableError: nobody knows.
        """

    async def bind_key(self, key: str, upload_id: str, *, instead_of: str | None, keep_s: float) -> str:
        """Have a web app's key lead to an upload from now on, unless it leads to another one.

        Args:
            key: a digest of it, in hex.
            upload_id: where to.
            instead_of: an upload that is over, to which it led before.
            keep_s: for how long.

        Returns:
            Where it leads to: *upload_id*, or who was first.

        Raises:
            RegistryUnavailableError: it may have been done.
        """

    # -- invitations

    async def invite(self, guest: Identity, invitations: Sequence[Invitation]) -> None:
        """Ask an instance to pull parked uploads. They lapse if it does not look.

        Raises:
            RegistryUnavailableError: not told; the uploads stay parked for whoever gets their clients.
        """

    async def invitations(self) -> list[Invitation]:
        """Return and consume what this instance is invited to, at most 1,000 at a time.

        Raises:
            RegistryUnavailableError: nobody knows; those that were on their way are lost, which is allowed.
        """
