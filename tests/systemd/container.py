"""A booted container in which systemd runs the project's units: `systemd-nspawn` on an overlay of this machine's root.

Nothing of it is left on the machine: what it writes goes to a tmpfs, and it ends with the block, whatever happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from incomingd.cli.client import Client, Target, UnreachableError
from incomingd.config import UnixAddress
from tests.support.machine import ROOT, wait_until

INSTALLED = "/opt/incomingd"
BOOT_WITHIN_S = 30.0
CLONE_NEWNET = 0x40000000

# What is wanted of a boot: the journal and the manager itself, none of the services of this machine.
_TARGET = "[Unit]\nDescription=Tests\nRequires=sysinit.target\nAfter=sysinit.target\nAllowIsolate=yes\n"

# Where this Python's own library was moved to; elsewhere it would find Debian's.
_LIBRARIES = "/opt/python/lib"

_ENVIRONMENT = {
    "PATH": f"{INSTALLED}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH": _LIBRARIES,
    "SYSTEMD_PAGER": "",
    "LC_ALL": "C.UTF-8",
}

_SCRIPT = "#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"


def why_not() -> str | None:
    """Return why no container can be booted here; None where it has to work."""
    if os.geteuid() != 0:
        return "needs root (boots a container)"
    release = Path("/etc/os-release")
    text = release.read_text("utf-8") if release.exists() else ""
    if 'VERSION_ID="12"' not in text or "ID=debian" not in text:
        return "the units are tested in a container made of this machine's system, which has to be Debian 12"
    return None


class Container:
    """Made by `booted`; *root* is its file system as seen from here, before and after the boot."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root = root
        self.leader = leader

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as the container's root; with *check* it has to succeed."""
        done = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--all", *command],
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl, which has to succeed; what it says of a failed unit is shown with the unit's journal."""
        done = self.run("systemctl", *arguments, check=False)
        if done.returncode != 0:
            journal = self.run("journalctl", "--no-pager", "--output=cat", "--lines=30", check=False).stdout
            message = f"systemctl {' '.join(arguments)}: {done.returncode}\n{done.stderr}\n{journal}"
            raise AssertionError(message)
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", f"--property={name}", "--value", unit).strip()

    def journal(self, unit: str) -> str:
        """Return what a unit has written, and what systemd says of it."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def path(self, path: str) -> Path:
        """Return a file of the booted container (its tmpfs's included) as a path of this machine."""
        return Path(f"/proc/{self.leader}/root{path}")

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")

    def status(self, instance: str) -> dict[str, Any] | None:
        """Return what an instance tells operators; None where it does not answer."""
        client = Client(Target(UnixAddress(self.path(f"/run/incoming/{instance}/admin.sock"))))
        try:
            return dict(client.call("GET", "/status"))
        except UnreachableError:
            return None
        finally:
            client.close()

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Have this thread, and those that it starts, open sockets in the container's network while the block runs."""
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(descriptor: int) -> None:
            if libc.setns(descriptor, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

        with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{self.leader}/ns/net") as theirs:
            enter(theirs.fileno())
            try:
                yield
            finally:
                enter(ours.fileno())


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[Container]:
    """Boot a container with the units installed as docs/operating/systemd.md says, none of them started."""
    with _overlay(folder) as root, _control_group() as groups:
        _install(root)
        log = folder / "console"
        with log.open("wb") as console:
            process = subprocess.Popen(
                ["sh", "-c", _enter(groups) + 'exec "$@"', "sh", *_command(root, registered=not groups)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        try:
            leader = wait_until(
                lambda: _leader(process), f"the container's first process:\n{_tail(log)}", timeout_s=BOOT_WITHIN_S
            )
            container = Container(root, leader)
            wait_until(lambda: _is_up(container), f"the boot:\n{_tail(log)}", timeout_s=BOOT_WITHIN_S)
            yield container
        finally:
            _end(process)


def _command(root: Path, *, registered: bool) -> list[str]:
    python = Path(sys.base_prefix)
    binds = [f"--bind-ro={sysconfig.get_path('purelib')}:{INSTALLED}/packages"]
    if not python.is_relative_to("/usr"):
        binds.append(f"--bind-ro={python}:/opt/python")
    return [
        "systemd-nspawn", "--quiet", f"--directory={root}", f"--machine=incoming-{uuid.uuid4().hex[:12]}", "--boot",
        # A network of its own: the ports of the units are theirs alone.
        "--private-network", "--register=no", "--console=pipe", "--link-journal=no",
        "--resolv-conf=off", "--timezone=off",
        *([] if registered else ["--keep-unit"]),
        *binds, "--", "systemd.unit=tests.target",
    ]  # fmt: skip


def _leader(process: subprocess.Popen[bytes]) -> int | None:
    """Return the container's first process: a descendant whose number within is 1."""
    assert process.poll() is None, f"systemd-nspawn ended with {process.returncode}"
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{child.pid}/status").read_text("ascii", "replace")
            numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            if len(numbers) > 1 and numbers[-1] == "1" and Path(f"/proc/{child.pid}/comm").read_text() == "systemd\n":
                return child.pid
    return None


def _is_up(container: Container) -> bool:
    state = container.run("systemctl", "is-system-running", check=False).stdout.strip()
    # Degraded: some unit of this machine's system fails in a container, which is not what is tested.
    return state in ("running", "degraded")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the container: without its first process the kernel ends all others of it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=False):
            child.kill()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2000:] if log.exists() else ""


@contextlib.contextmanager
def _overlay(folder: Path) -> Iterator[Path]:
    """Mount this machine's root with a layer above it that takes every change."""
    disk, root = folder / "disk", folder / "root"
    disk.mkdir()
    root.mkdir()
    with contextlib.ExitStack() as stack:

        def mount(*arguments: str, at: Path) -> None:
            subprocess.run(["mount", *arguments, str(at)], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(at)], check=True)

        mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", at=disk)
        for name in ("upper", "work"):
            (disk / name).mkdir()
        mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={disk}/upper,workdir={disk}/work", "overlay", at=root)
        yield root


def _install(root: Path) -> None:
    """Install the daemon below /opt/incomingd, its units and its user; and what makes the boot short."""
    units = root / "etc/systemd/system"
    for name in ("incomingd@.service", "incomingd.service", "incomingd.socket", "incomingd.target"):
        shutil.copy(ROOT / "systemd" / name, units / name)
    users = root / "etc/sysusers.d"
    users.mkdir(exist_ok=True)
    shutil.copy(ROOT / "systemd/sysusers.d/incomingd.conf", users / "incomingd.conf")
    # A web app of another user, and the daemon in its group.
    (users / "webapp.conf").write_text("u webapp - - - -\nm incomingd webapp\n")
    subprocess.run(["systemd-sysusers", f"--root={root}"], check=True, capture_output=True)

    (units / "tests.target").write_text(_TARGET)
    (root / "etc/machine-id").write_text("")
    for folder in ("etc", "usr/lib"):
        # There is no network to be waited for.
        shutil.rmtree(root / folder / "systemd/system/network-online.target.wants", ignore_errors=True)

    python = Path(sys.base_prefix)
    prefix = python if python.is_relative_to("/usr") else Path("/opt/python")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    home = root / INSTALLED.lstrip("/")
    packages = home / "lib" / version / "site-packages"
    for folder_ in (packages, home / "bin", home / "packages", root / "opt/python"):
        folder_.mkdir(parents=True, exist_ok=True)
    (home / "pyvenv.cfg").write_text(f"home = {prefix}/bin\ninclude-system-site-packages = false\n")
    (home / "bin/python").symlink_to(prefix / "bin" / version)
    shutil.copytree(ROOT / "incomingd", packages / "incomingd")
    (packages / "packages.pth").write_text(f"{INSTALLED}/packages\n")
    for name, module in (("incomingd", "incomingd.daemon.main"), ("incomingctl", "incomingd.cli.main")):
        script = home / "bin" / name
        script.write_text(_SCRIPT.format(python=f"{INSTALLED}/bin/python", module=module))
        script.chmod(0o755)
    (root / "etc/incomingd").mkdir(exist_ok=True)
    # An event or a field that the catalogue of the log does not know is a fault.
    (root / "etc/incomingd/common.env").write_text(f"INCOMINGD_STRICT_LOG=1\nLD_LIBRARY_PATH={_LIBRARIES}\n")


@contextlib.contextmanager
def _control_group() -> Iterator[list[Path]]:
    """Make a control group for the container where no systemd does that; containers of other tests have others."""
    if Path("/run/systemd/system").exists():
        yield []
        return
    groups = []
    # One name: systemd mirrors what it makes in one hierarchy to the other.
    name = f"incoming-{uuid.uuid4().hex[:12]}"
    for line in Path("/proc/self/cgroup").read_text("ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "name=systemd"):
            continue
        for mounted in ("systemd",) if controllers else ("unified", ""):
            hierarchy = Path("/sys/fs/cgroup") / mounted
            if (hierarchy / "cgroup.procs").exists():
                groups.append(hierarchy / path.lstrip("/") / name)
                break
    for group in groups:
        group.mkdir()
    try:
        yield groups
    finally:
        for group in groups:
            _remove_group(group)


def _enter(groups: list[Path]) -> str:
    return "".join(f"echo $$ >{group}/cgroup.procs && " for group in groups)


def _remove_group(group: Path) -> None:
    def gone() -> bool:
        """Try; a group is busy for a moment after its last process has ended."""
        try:
            for below, _, _ in os.walk(group, topdown=False):
                os.rmdir(below)
        except OSError:
            return False
        return True

    wait_until(gone, f"{group} is empty", timeout_s=10)
