"""The command ``incomingctl``."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import click

from incomingd import __version__
from incomingd.cli import callback as callbacks
from incomingd.cli import draining, rolling
from incomingd.cli.client import Client, RefusedError, UnreachableError, parse_target
from incomingd.cli.show import Output
from incomingd.core.errors import Refusal
from incomingd.core.names import clean_value
from incomingd.core.status import Status

P = ParamSpec("P")
R = TypeVar("R")

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3

PARTIAL: Final = "Uploads may be missing here: an instance did not answer, or it is not sure which instances there are."

DEFAULT_ADDRESS: Final = "127.0.0.1:4001"


class Common:
    """What every command takes, before its name or behind it; what stands last counts."""

    def __init__(self) -> None:
        self.address = DEFAULT_ADDRESS
        self.token: str | None = None
        self.token_file: Path | None = None
        self.as_json = False

    def update(self, address: str | None, token: str | None, token_file: Path | None, *, as_json: bool) -> None:
        """Take over what is given."""
        self.address = address or self.address
        if token is not None or token_file is not None:
            self.token, self.token_file = token, token_file
        self.as_json = self.as_json or as_json

    @property
    def output(self) -> Output:
        """Where results go."""
        return Output(as_json=self.as_json)

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """Yield what calls the daemon; end the program in words where that does not work."""
        try:
            target = parse_target(self.address)
        except ValueError as error:
            raise click.UsageError(f"--address: {error}") from None
        client = Client(target, self.secret())
        try:
            yield client
        except RefusedError as error:
            _complain(f"{str(error).rstrip()} ({error.code})")
            sys.exit(EXIT_REFUSED)
        except UnreachableError as error:
            _complain(str(error))
            sys.exit(EXIT_UNREACHABLE)
        finally:
            client.close()

    def secret(self) -> str | None:
        """Return the token, from wherever it is to be taken; None: none is shown."""
        if self.token is None and self.token_file is not None:
            try:
                lines = self.token_file.read_text("utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise click.UsageError(f"--token-file: {error}") from None
            if not lines:
                raise click.UsageError(f"--token-file: {self.token_file} is empty")
            return lines[0]
        return self.token


def _complain(text: str) -> None:
    """Write on standard error what went wrong; a daemon's words are not a terminal's commands."""
    click.echo("\n".join(f"incomingctl: {clean_value(line)}" for line in text.splitlines() if line.strip()), err=True)


def _options(*, with_environment: bool) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add the options that every command takes."""

    def variable(name: str) -> str | None:
        return f"INCOMINGCTL_{name}" if with_environment else None

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        for option in (
            click.option("--json", "as_json", is_flag=True, help="JSON; the default where no terminal is."),
            click.option(
                "--token-file", type=click.Path(path_type=Path, dir_okay=False), envvar=variable("TOKEN_FILE"),
                help="File whose first word is the token.",
            ),
            click.option(
                "--token", envvar=variable("TOKEN"),
                help="One of backend.tokens, where the admin API shares the backend's listener and tokens are set.",
            ),
            click.option(
                "--address", envvar=variable("ADDRESS"), metavar="ADDRESS",
                help="The daemon's admin.address: host:port, unix:path or https://host:port."
                f"  [default: {DEFAULT_ADDRESS}]",
            ),
        ):  # fmt: skip
            function = option(function)
        return function

    return decorate


def command(group: click.Group, name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function a command of *group* that takes the common options and gets them as `common`."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @group.command(name, help=function.__doc__)
        @_options(with_environment=False)
        @click.pass_obj
        @functools.wraps(function)
        def run(
            common: Common,
            /,
            *args: object,
            address: str | None,
            token: str | None,
            token_file: Path | None,
            as_json: bool,
            **more: object,
        ) -> None:
            common.update(address, token, token_file, as_json=as_json)
            function(common, *args, **more)

        return run

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="incomingctl", message="%(prog)s %(version)s")
@_options(with_environment=True)
@click.pass_context
def main(
    context: click.Context, address: str | None, token: str | None, token_file: Path | None, *, as_json: bool
) -> None:
    """Look after a running incomingd.

    Ends with 0 when all went well, 1 when the daemon refused (the text and the problem's code stand on standard error),
    2 when the command line is wrong, 3 when no daemon answers. INCOMINGCTL_ADDRESS, INCOMINGCTL_TOKEN and
    INCOMINGCTL_TOKEN_FILE stand for the options.
    """
    common = Common()
    common.update(address, token, token_file, as_json=as_json)
    context.obj = common


@command(main, "status")
def status(common: Common) -> None:
    """Show the instance at a glance."""
    with common.client() as client:
        found = client.call("GET", "/status")
    output = common.output
    if output.as_json:
        output.document(found)
    else:
        output.status(found)


@command(main, "uploads")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([each.value for each in Status]),
    help="Only of this status; may be repeated.",
)
@click.option("--label", default="", help="Only with this label.")
@click.option("--stuck", is_flag=True, help="Only complete ones whose callback was given up.")
@click.option("--limit", type=click.IntRange(min=1), help="At the most so many.")
def uploads(common: Common, statuses: tuple[str, ...], label: str, *, stuck: bool, limit: int | None) -> None:
    """List uploads."""
    with common.client() as client:
        found = client.uploads(status=",".join(statuses), label=label, handover="stuck" if stuck else "")
        output = common.output
        (output.documents if output.as_json else output.uploads)(itertools.islice(found, limit))
        if found.partial and output.as_json:
            # The list itself is what programs read: it has no place for it.
            _complain(PARTIAL)
        elif found.partial:
            output.warning(PARTIAL)


@command(main, "upload")
@click.argument("upload_id", metavar="ID")
def upload(common: Common, upload_id: str) -> None:
    """Show one upload, with its callbacks."""
    with common.client() as client:
        _show(common, client.upload(upload_id))


@command(main, "cancel")
@click.argument("upload_id", metavar="ID")
@click.option("--reason", default="", help="For the web app and the page.")
def cancel(common: Common, upload_id: str, reason: str) -> None:
    """End an upload and delete its bytes."""
    with common.client() as client:
        _show(common, client.cancel(upload_id, reason))


def _show(common: Common, found: dict[str, Any]) -> None:
    output = common.output
    (output.document if output.as_json else output.upload)(found)


@command(main, "redeliver")
@click.argument("upload_ids", nargs=-1, metavar="[ID]...")
@click.option("--stuck", is_flag=True, help="All complete uploads whose callback was given up.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
def redeliver(common: Common, upload_ids: tuple[str, ...], *, stuck: bool, dry_run: bool) -> None:
    """Have callbacks made again, with their old ids.

    Where one is refused, or an instance does not tell which are stuck, the others are made all the same; the exit
    status is 1 then.
    """
    if bool(upload_ids) == stuck:
        raise click.UsageError("Name uploads, or say --stuck.")
    refused = False
    done: list[dict[str, Any]] = []
    with common.client() as client:
        # All of them first: one that is redelivered leaves the list that is being read.
        wanted = list(upload_ids)
        if stuck:
            found = client.uploads(handover="stuck")
            wanted = [str(each["id"]) for each in found]
            if found.partial:
                refused = True
                _complain(PARTIAL)
        for upload_id in dict.fromkeys(wanted):
            try:
                done.append(client.upload(upload_id) if dry_run else client.redeliver(upload_id))
            except RefusedError as error:
                refused = True
                _complain(f"{upload_id}: {error} ({error.code})")
    output = common.output
    if output.as_json:
        output.documents(done)
    else:
        output.uploads(done)
        output.line(f"{len(done)} {'would be' if dry_run else ''} redelivered".replace("  ", " "))
    if refused:
        sys.exit(EXIT_REFUSED)


@command(main, "reload")
def reload(common: Common) -> None:
    """Read the configuration again.

    Says what is in force now and what needs a restart; a configuration with a mistake changes nothing.
    """
    with common.client() as client:
        found = client.call("POST", "/reload", {})
    output = common.output
    (output.document if output.as_json else output.reload)(found)


@command(main, "rolling-restart")
@click.argument("instances", nargs=-1, metavar="[INSTANCE]...")
@click.option(
    "--admin-address", default="unix:/run/incoming/%i/admin.sock", show_default=True, metavar="ADDRESS",
    help="admin.address of the instances, where %i is the name of each; used instead of --address.",
)  # fmt: skip
@click.option(
    "--timeout-s", type=click.FloatRange(min=0), default=600.0, show_default=True,
    help="At each step wait so long, in s, until the instances are ready and nothing moves.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say which, in which order.")
def rolling_restart(
    common: Common, instances: tuple[str, ...], admin_address: str, timeout_s: float, *, dry_run: bool
) -> None:
    """Restart the instances of this host (units incomingd@*.service) one after the other.

    The next one only when all are ready and no upload is moving between them. It stops at the first that does not come
    back, with exit status 1, and says how to go on. Needs the right to call systemctl restart.
    """
    try:
        parse_target(admin_address.replace("%i", "01"))
    except ValueError as error:
        raise click.UsageError(f"--admin-address: {error}") from None
    restart = rolling.RollingRestart(
        rolling.Systemd(),
        rolling.Instances(admin_address, common.secret()),
        say=lambda text: click.echo(clean_value(text), err=True),
        timeout_s=timeout_s,
    )
    output = common.output
    try:
        if dry_run:
            found: list[dict[str, Any]] = [{"unit": unit.name} for unit in restart.choose(instances)[0]]
        else:
            found = restart.run(instances)
    except rolling.StoppedError as error:
        _complain(str(error))
        sys.exit(EXIT_REFUSED)
    if output.as_json:
        output.documents(found)
    else:
        output.line(f"{'would restart' if dry_run else 'restarted'}: {', '.join(each['unit'] for each in found)}")


@command(main, "drain")
@click.option(
    "--retire", is_flag=True,
    help="For good: another instance inherits the records, and this one never serves on its data directory again.",
)  # fmt: skip
@click.option("--heir", metavar="INSTANCE", help="With --retire: who inherits; else the ring says who.")
@click.option("--dry-run", is_flag=True, help="With --retire: only say who would inherit.")
@click.option("--wait", is_flag=True, help="Return only when it is drained; shows how far it is.")
@click.option(
    "--timeout-s", type=click.FloatRange(min=0),
    help="With --wait: so long at the most, in s; then the exit status is 1, and the drain goes on.",
)  # fmt: skip
def drain(
    common: Common, *, retire: bool, heir: str | None, dry_run: bool, wait: bool, timeout_s: float | None
) -> None:
    """Have the instance give all its uploads away and take none.

    Their clients go on at other instances. What no other instance takes stays on the volume, and is there after the
    restart. A second call changes nothing, so with --wait one may go on waiting for a drain that was begun before.
    """
    if timeout_s is not None and not wait:
        raise click.UsageError("--timeout-s means nothing without --wait.")
    if not retire and (heir is not None or dry_run):
        raise click.UsageError(f"--{'heir' if heir is not None else 'dry-run'} means nothing without --retire.")
    output = common.output
    wanted = {"retire": True} | ({"heir": heir} if heir is not None else {}) if retire else {}
    with common.client() as client:
        if dry_run:
            found = client.call("POST", "/drain", wanted | {"dry_run": True})
            (output.document if output.as_json else output.heir)(found)
            return
        found = client.call("POST", "/drain", wanted)
        if wait:
            bar = sys.stderr.isatty() and not common.as_json
            watcher: draining.Watcher = draining.Bar() if bar else draining.Lines()
            try:
                found = draining.wait(client, found, watcher, timeout_s=timeout_s, sleep=time.sleep)
            except draining.NotDrainedError as error:
                watcher.close()
                _complain(str(error))
                sys.exit(EXIT_REFUSED)
            except BaseException:
                watcher.close()
                raise
            watcher.close()
    (output.document if output.as_json else output.drain)(found)


@command(main, "undrain")
def undrain(common: Common) -> None:
    """Have the instance take uploads again, during a drain or after it.

    What it has given away stays where it is until its clients come back here.
    """
    with common.client() as client:
        found = client.call("POST", "/undrain", {})
    output = common.output
    if output.as_json:
        output.document(found)
    else:
        output.line(f"The instance is {found['state']}.")


@command(main, "ring")
def ring(common: Common) -> None:
    """Show the instances that are alive, as far as this one knows."""
    with common.client() as client:
        found = client.call("GET", "/ring")
    output = common.output
    (output.document if output.as_json else output.ring)(found)


@main.group("callback")
def callback() -> None:
    """Callbacks to web apps."""


@command(callback, "test")
@click.argument("url")
@click.option("--secret", envvar="INCOMINGCTL_SECRET", help="The ticket's secret (INCOMINGCTL_SECRET); else a new one.")
@click.option(
    "--timeout-s", type=click.FloatRange(min=0.1), default=55.0, show_default=True, help="Wait so long, in s."
)
def callback_test(common: Common, url: str, secret: str | None, timeout_s: float) -> None:
    """Make a signed callback of the type `upload.test` to URL, from here, and show what comes back.

    Its data are those of an upload that does not exist; an app that knows only its own types answers as it likes. The
    exit status is 0 where the answer is 2xx, else 1.
    """
    try:
        sent = callbacks.send(url, secret, timeout_s=timeout_s)
    except Refusal as refusal:
        raise click.UsageError(refusal.detail) from None
    except callbacks.NoAnswerError as error:
        _complain(str(error))
        sys.exit(EXIT_REFUSED)
    output = common.output
    (output.document if output.as_json else output.pairs)(callbacks.told(sent, secret_given=secret is not None))
    if not 200 <= sent.status < 300:
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
