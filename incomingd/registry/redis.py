"""The registry's store in Redis: a single one, a primary that Sentinels watch over, or a Cluster.

Every call is bounded in time as a whole, whatever the client library does
within it. No exception of the library leaves this module.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff

from incomingd.core.pacing import backoff_s
from incomingd.registry import redis_scripts as scripts
from incomingd.registry.registry import RegistryUnavailableError, Trouble
from incomingd.registry.store import INVITATION_S, KEEP_S, TAKEN_MAX, Entry, Sighting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from incomingd.clock import Clock
    from incomingd.config.redis_url import Login, Target, Tls

T = TypeVar("T")

COMMAND_S: Final = 0.8
"""A call that has no answer after so long has failed."""
GRACE_S: Final = 0.1
"""Where this process itself stalled, the answer may be there and not yet read."""
CONNECT_S: Final = 0.7
SENTINEL_S: Final = 0.25
"""Three Sentinels, two of them hung, can be asked within one call."""
CLUSTER_S: Final = 0.35
"""A server of a Cluster that is gone, and the one that is asked instead, fit into one call."""
PING_S: Final = 2.0
"""A subscription is silent when nothing happens and when its server is gone; so it is asked."""
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 2.0


class RedisStore:
    """See :class:`incomingd.registry.store.Store`. Connects when it is first asked.

    Args:
        target: where, and how to get in.
        clock: time and tasks.
    """

    def __init__(self, target: Target, clock: Clock) -> None:
        self._target = target
        self._clock = clock
        self._sentinel: Sentinel | None = None
        self._redis: Redis | RedisCluster = self._client()
        ring = f"{target.prefix}:{{ring}}"
        self._state, self._leases, self._until = f"{ring}:state", f"{ring}:leases", f"{ring}:until"
        self._channel = f"{ring}:changes"

    def _client(self) -> Redis | RedisCluster:
        target = self._target
        # RESP2: nothing that RESP3 adds is used, and older servers know it.
        shared: dict[str, Any] = {"socket_connect_timeout": CONNECT_S, "protocol": 2, "driver_info": None}
        shared |= _tls(target.tls)
        options = shared | _login(target.login)
        # A connection that was closed while idle is no reason to fail; one that does not answer is.
        options |= {
            "db": target.database,
            "socket_timeout": COMMAND_S,
            "retry": Retry(NoBackoff(), 1, (exceptions.ConnectionError,)),
        }
        if target.cluster:
            return self._of_cluster(options)
        if target.primary is None:
            [(host, port)] = target.hosts
            return Redis(host=host, port=port, **options)
        never = Retry(NoBackoff(), 0, (exceptions.ConnectionError,))
        sentinels = shared | _login(target.sentinel_login)
        sentinels |= {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S, "retry": never}
        self._sentinel = Sentinel(target.hosts, sentinel_kwargs=sentinels)  # type: ignore[no-untyped-call] # the library's
        client: Redis = self._sentinel.master_for(target.primary, **options)
        return client

    def _of_cluster(self, options: dict[str, Any]) -> RedisCluster:
        """Return a client that asks whichever server has a key, and looks again where that has changed."""
        options |= {
            "socket_timeout": CLUSTER_S,
            "socket_connect_timeout": CLUSTER_S,
            # Each time it fails it asks where the key is now.
            "retry": Retry(NoBackoff(), 1, (exceptions.ConnectionError, exceptions.TimeoutError)),
        }
        return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in self._target.hosts], **options)

    # -- leases

    async def renew(self, lease_id: str, value: bytes, *, lease_s: float, fresh: str) -> Sighting:
        """Let a lease run; drop those that have lapsed."""
        keys = (self._state, self._leases, self._until, self._inbox(lease_id))
        generation, stamp, invitations, run_id = await self._eval(
            scripts.RENEW, keys, lease_id, value, _ms(lease_s), fresh, _ms(KEEP_S), self._channel
        )
        return Sighting(generation.decode(), run_id.decode(), stamp.decode(), invitations)

    async def leases(self) -> dict[str, bytes]:
        """Return those that run."""
        found = await self._eval(scripts.LEASES, (self._leases, self._until))
        return _pairs(found)

    async def leave(self, lease_id: str, *, fresh: str) -> None:
        """End a lease."""
        keys = (self._state, self._leases, self._until, self._inbox(lease_id))
        await self._eval(scripts.LEAVE, keys, lease_id, fresh, self._channel)

    # -- ownership

    async def owner(self, upload_id: str) -> bytes | None:
        """Return an upload's entry."""
        found = await self._bounded(lambda: self._redis.get(self._entry(upload_id)))
        assert not isinstance(found, str), "nothing is decoded"
        return found

    async def publish(self, entries: Sequence[Entry]) -> list[bytes | None]:
        """Keep entries, unless something stands against them."""
        return await self._eval_all(
            scripts.PUBLISH,
            [(each.upload_id, (each.value, each.name, each.start_id, each.epoch, _ms(KEEP_S))) for each in entries],
        )

    async def correct(self, replaced: Entry, by: Entry) -> bytes | None:
        """Replace the entry that is named."""
        [stands] = await self._eval_all(
            scripts.CORRECT,
            [
                (
                    replaced.upload_id,
                    (replaced.name, replaced.start_id, replaced.epoch, by.value, _ms(KEEP_S)),
                )
            ],
        )
        return stands

    async def release(self, entries: Sequence[Entry]) -> None:
        """Drop entries."""
        await self._eval_all(
            scripts.RELEASE, [(each.upload_id, (each.name, each.start_id, each.epoch)) for each in entries]
        )

    # -- keys of web apps

    async def keyed(self, key: str) -> bytes | None:
        """Return a key's value."""
        found = await self._bounded(lambda: self._redis.get(self._key(key)))
        assert not isinstance(found, str), "nothing is decoded"
        return found

    async def bind_key(self, key: str, value: bytes, *, upload_id: str, instead_of: str, keep_s: float) -> bytes | None:
        """Keep a key's value, unless it leads elsewhere."""
        stands: bytes | None = await self._eval(
            scripts.BIND_KEY, (self._key(key),), value, upload_id, instead_of, _ms(keep_s)
        )
        return stands

    # -- invitations

    async def invite(self, lease_id: str, invitations: Mapping[str, bytes]) -> None:
        """Keep invitations."""
        pairs = [part for pair in invitations.items() for part in pair]
        await self._eval(scripts.INVITE, (self._inbox(lease_id),), _ms(INVITATION_S), self._channel, lease_id, *pairs)

    async def take(self, lease_id: str) -> dict[str, bytes]:
        """Return and drop invitations."""
        return _pairs(await self._eval(scripts.TAKE, (self._inbox(lease_id),), TAKEN_MAX))

    # -- hints

    async def listen(self, hint: Callable[[str], None]) -> None:
        """Call *hint* when something has changed, until cancelled."""
        failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                await self._listen_once(hint)
            except RegistryUnavailableError:
                # Only hints: the loop that renews the lease tells of trouble.
                lasted = self._clock.monotonic() - began > RETRY_MAX_S + PING_S
                failures = 1 if lasted else failures + 1
            await self._clock.sleep(
                backoff_s(failures, first_s=RETRY_FIRST_S, max_s=RETRY_MAX_S, jitter=self._clock.jitter())
            )

    async def _listen_once(self, hint: Callable[[str], None]) -> None:
        if isinstance(self._redis, RedisCluster):
            # The library's subscriptions take it for granted that somebody has asked a Cluster who has what.
            _ = await self._bounded(self._redis.initialize)
        subscription = self._redis.pubsub()
        try:
            await self._bounded(lambda: subscription.subscribe(self._channel))
            asked = False
            # What happened before there was a subscription nobody has told.
            hint("")
            while True:
                # The library's own bound on a message is the pause; it raises when the connection ends.
                silence_s = COMMAND_S if asked else PING_S
                message = await self._bounded(
                    lambda: subscription.get_message(timeout=silence_s),  # noqa: B023 -- awaited within this turn
                    bound_s=silence_s + COMMAND_S,
                )
                if message is None and asked:
                    raise RegistryUnavailableError(Trouble.TIMED_OUT, self._said("does not answer a subscription"))
                asked = message is None
                if asked:
                    await self._bounded(subscription.ping)
                elif message["type"] == "message":
                    hint(message["data"].decode("utf-8", "replace"))
        finally:
            await self._quietly(subscription.aclose)

    async def close(self) -> None:
        """Close every connection."""
        await self._quietly(self._redis.aclose)
        if self._sentinel is not None:
            await self._quietly(self._sentinel.aclose)

    # -- calls

    def _entry(self, upload_id: str) -> str:
        # The braces make entries of different uploads fall to different servers of a Cluster.
        return f"{self._target.prefix}:{{{upload_id}}}:owner"

    def _key(self, key: str) -> str:
        return f"{self._target.prefix}:{{{key}}}:key"

    def _inbox(self, lease_id: str) -> str:
        return f"{self._target.prefix}:{{ring}}:invited:{lease_id}"

    async def _eval(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        # Always with its text: a kilobyte, against what a script that the server has forgotten takes to tell.
        return await self._bounded(lambda: self._redis.eval(script, len(keys), *keys, *arguments))

    async def _eval_all(self, script: str, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[bytes | None]:
        """Run *script* on each upload's entry, all in one round trip."""
        if len(calls) == 1:
            [(upload_id, arguments)] = calls
            return [await self._eval(script, (self._entry(upload_id),), *arguments)]

        async def run() -> list[bytes | None]:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for upload_id, arguments in calls:
                    # A pipeline's commands are not awaited; they are noted, and it returns itself.
                    await_nothing = pipeline.eval(script, 1, self._entry(upload_id), *arguments)
                    assert await_nothing is pipeline, await_nothing
                answers: list[bytes | None] = await pipeline.execute()
                return answers

        return await self._bounded(run) if calls else []

    async def _quietly(self, close: Callable[[], Awaitable[Any]]) -> None:
        try:
            await self._bounded(close)
        except RegistryUnavailableError:
            # Closing what does not answer: it is let go of all the same.
            return

    async def _bounded(self, question: Callable[[], Awaitable[T]], *, bound_s: float = COMMAND_S) -> T:
        """Return the answer, within *bound_s*.

        Raises:
            RegistryUnavailableError: there is none, or it is a refusal.
        """
        answers: list[T] = []
        failures: list[RegistryUnavailableError] = []

        async def ask() -> None:
            try:
                answers.append(await question())
            except (exceptions.RedisError, exceptions.RedisClusterException, OSError, EOFError) as error:
                failures.append(self._unavailable(error))

        asking = self._clock.spawn(ask(), name="registry.command")
        try:
            if not (await self._clock.timeout(bound_s, asking) or await self._clock.timeout(GRACE_S, asking)):
                raise RegistryUnavailableError(
                    Trouble.TIMED_OUT, self._said(f"{_SENTENCES[Trouble.TIMED_OUT]}: nothing within {bound_s} s")
                )
        finally:
            # The library throws the connection away on which an answer is still due.
            asking.cancel()
        if failures:
            raise failures[0]
        asking.result()
        return answers[0]

    def _said(self, what: str) -> str:
        return f"The registry's Redis ({self._target}) {what}."

    def _unavailable(self, error: Exception) -> RegistryUnavailableError:
        trouble = _trouble(error := _told(error))
        text = str(error).strip().rstrip(".")
        failed = RegistryUnavailableError(trouble, self._said(f"{_SENTENCES[trouble]}: {text}"))
        failed.__cause__ = error
        return failed


_SENTENCES: Final = {
    Trouble.UNREACHABLE: "cannot be reached",
    Trouble.TIMED_OUT: "does not answer in time",
    Trouble.LOGIN_REFUSED: "refuses the user or the password",
    Trouble.TLS_FAILED: "cannot be reached over TLS",
    Trouble.NO_PRIMARY: "has no primary just now",
    Trouble.READ_ONLY: "takes no writes",
    Trouble.LOADING: "is still loading its data",
    Trouble.FULL: "has no memory left (maxmemory)",
    Trouble.NOT_PERMITTED: "does not permit a command to this user",
    Trouble.OTHER_KIND: "is a Cluster, and registry.url names none (redis+cluster://), or the other way round",
    Trouble.ERROR: "answers with an error",
}

# The first that fits: the library's errors are each other's children.
_BY_KIND: Final[tuple[tuple[type[Exception], Trouble], ...]] = (
    (MasterNotFoundError, Trouble.NO_PRIMARY),
    (exceptions.ClusterDownError, Trouble.NO_PRIMARY),
    (exceptions.SlotNotCoveredError, Trouble.NO_PRIMARY),
    # A single server's client is told that a key lies with another.
    (exceptions.AskError, Trouble.OTHER_KIND),
    (exceptions.AuthenticationError, Trouble.LOGIN_REFUSED),
    (exceptions.AuthenticationWrongNumberOfArgsError, Trouble.LOGIN_REFUSED),
    (exceptions.NoPermissionError, Trouble.NOT_PERMITTED),
    (exceptions.BusyLoadingError, Trouble.LOADING),
    (exceptions.ReadOnlyError, Trouble.READ_ONLY),
    (exceptions.OutOfMemoryError, Trouble.FULL),
    (exceptions.TimeoutError, Trouble.TIMED_OUT),
    (exceptions.ConnectionError, Trouble.UNREACHABLE),
    (OSError, Trouble.UNREACHABLE),
)
# What a script's errors and some refusals are known by.
_BY_TEXT: Final = (
    ("WRONGPASS", Trouble.LOGIN_REFUSED),
    ("NOAUTH", Trouble.LOGIN_REFUSED),
    ("NOPERM", Trouble.NOT_PERMITTED),
    ("ACL failure", Trouble.NOT_PERMITTED),
    ("can't run this command", Trouble.NOT_PERMITTED),
    ("MISCONF", Trouble.READ_ONLY),
    ("NOREPLICAS", Trouble.READ_ONLY),
    ("READONLY", Trouble.READ_ONLY),
    ("LOADING", Trouble.LOADING),
    ("OOM", Trouble.FULL),
    ("slots are not covered", Trouble.NO_PRIMARY),
    ("cluster support disabled", Trouble.OTHER_KIND),
)


def _told(error: Exception) -> Exception:
    """Return what a server has said, where the client of a Cluster only says that it found none to ask."""
    while type(error) is exceptions.RedisClusterException:
        below = error.__cause__ or error.__context__
        if not isinstance(below, exceptions.RedisError | exceptions.RedisClusterException | OSError):
            break
        error = below
    return error


def _trouble(error: Exception) -> Trouble:
    cause: BaseException | None = error
    while cause is not None:
        # The second one: a certificate's file is missing.
        if isinstance(cause, ssl.SSLError | FileNotFoundError):
            return Trouble.TLS_FAILED
        cause = cause.__cause__ or cause.__context__
    for kind, trouble in _BY_KIND:
        if isinstance(error, kind):
            return trouble
    return next((trouble for word, trouble in _BY_TEXT if word in str(error)), Trouble.ERROR)


def _login(login: Login) -> dict[str, Any]:
    return {"username": login.user, "password": login.password}


def _tls(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    return {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": tls.ca_file,
        "ssl_certfile": tls.cert_file,
        "ssl_keyfile": tls.key_file,
    }


def _pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _ms(duration_s: float) -> int:
    return round(duration_s * 1000)
