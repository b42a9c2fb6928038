"""Everything that the hand-written documents name is there: commands, options, paths, keys, events, fields, layers."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import requests
import yaml

from incomingd import config
from incomingd.cli.main import main as incomingctl
from incomingd.config.keys import groups, keys
from incomingd.log import events
from tests.docs import statuses
from tests.docs.pages import PAGES, blocks, names, text_of
from tests.support.daemon import Daemon
from tests.support.machine import ROOT
from tests.support.tree import files, shown

KEYS = keys()
KEY_GROUPS = frozenset(groups())
LOG_EVENTS = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}
OPTIONS = {"--config", "--check-config", "--print-config", "--version"} | {f"--{name}" for name in KEYS}

# Names of other people's programs, protocols and machines: nothing here can say whether they are right.
FOREIGN = frozenset(
    {"endpoint", "uploadUrl", "uploadLengthDeferred: true", "url", "retries", "script-src", "connect-src", "File"}
    | {"PATCH", "HEAD", "POST", "Range", "Host", "RequestHandler", "unix", "main", "false", "Restart=always"}
    | {
        "StateDirectory",
        "bind",
        "server",
        "send-proxy-v2",
        "findPreviousUploads",
        "resumeFromPreviousUpload",
        "option forwardfor",
        "kill -9",
        "cp -a",
        "rsync -aH",
    }
    | {"http-request set-header X-Forwarded-Proto https", "npm run build", "python3", "python3-venv"}
    | {"systemctl stop", "0710", "0660", "host:port", "unix:/path"}
    # What one types after the guide, and two templates of names.
    | {"pip install tornado standardwebhooks", "npm install tus-js-client", "npm install @uppy/core @uppy/tus"}
    | {"pip install tuspy", "python app.py", "noun.past_participle", "…tls.cert", "…tls.key"}
    # Files that are made where the daemon runs.
    | {
        ".run/",
        ".venv",
        ".venv/bin/python",
        ".venv/bin/incomingctl",
        "app.py",
        "page.html",
        "/etc/incomingd/incomingd.yaml",
        "noeviction",
        "dmesg",
        "journalctl -u incomingd@01",
        "systemctl reload haproxy",
    }
    # Forms: what a person fills in, or what a document of another kind defines.
    | {"docs/decisions/NNNN-title.md", "100 (Continue)", "Authorization: Bearer …", "0.0.0.0:4000"}
)
_PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|md|js|mjs|json|yaml)|\.ci/run")
_WORD = re.compile(r"[A-Za-z_]\w*")


@cache
def words() -> frozenset[str]:
    """Return every word of the package's and the library's sources."""
    found: set[str] = set()
    for folder in ("incomingd", "js/src"):
        for path in files(".py", ".js", under=folder):
            found.update(re.findall(r"\w+", path.read_text("utf-8")))
    return frozenset(found)


@cache
def source() -> str:
    """Return the package's sources as one text, in lower case."""
    return "\n".join(path.read_text("utf-8") for path in files(".py", under="incomingd")).lower()


def ctl_is_right(text: str) -> bool:
    """Return whether *text* is a command line of incomingctl whose commands and options exist."""
    command: click.Command = incomingctl
    parts = shlex.split(text)[1:]
    while parts and isinstance(command, click.Group):
        name = parts.pop(0)
        if name not in command.commands:
            return False
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    return all(part in known for part in parts if part.startswith("--"))


def command_is_right(text: str) -> bool | None:
    """Return whether a command line is right; None: it is no command of this project."""
    first, _, rest = text.partition(" ")
    match first.rpartition("/")[2]:
        case "make":
            # Behind the target stand values of variables, such as `SHORT=1`.
            target, *values = rest.split()
            makefile = (ROOT / "Makefile").read_text()
            named = all(re.search(rf"\b{re.escape(each.partition('=')[0])}\b", makefile) for each in values)
            return named and bool(re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE))
        case "incomingctl":
            return ctl_is_right(text)
        case "incomingd":
            return all(part in OPTIONS for part in rest.split() if part.startswith("--"))
        case "python" if rest.startswith("-m "):
            module = rest.split()[1]
            return importlib.util.find_spec(module) is not None
        case _:
            return None


def is_known(name: str) -> bool:
    """Return whether inline code names something that exists."""
    if name in FOREIGN or name in KEYS or name in KEY_GROUPS or name in LOG_EVENTS or name in OPTIONS:
        return True
    right = command_is_right(name)
    if right is not None and (" " in name or right):
        return right
    if "/incoming/1.0/" in name or name.startswith(("GET ", "POST ")):
        return True  # asked of a daemon below
    if _PATH.fullmatch(name) and ((ROOT / name).exists() or any(path.name == name for path in files())):
        return True
    metric = re.fullmatch(r"(incomingd_\w+?)(_total)?(\{\w+=\"\w+\"\})?", name)
    if metric is not None:
        return metric[1] in words()
    if name.startswith(("{", '"')):
        keys = json.loads(name if name.startswith("{") else f"{{{name}}}")
        return all(key in words() or f'"{key}"' in source() for key in keys)
    if re.fullmatch(r"[\w.]+\([^()]*\)", name):
        return set(re.findall(r"\w+", name.partition("(")[0])) <= words()
    if _WORD.fullmatch(name):
        return name in words() or (ROOT / name).is_dir()
    return re.search(rf"(?<![\w.-]){re.escape(name.lower())}(?![\w-])", source()) is not None


@pytest.mark.parametrize("page", PAGES)
def test_everything_in_inline_code_exists(page: str) -> None:
    """Keys, events, commands, options, files, fields, codes and headers are looked up where they are defined."""
    assert not [name for name in names(page) if not is_known(name)]


def test_what_does_not_exist_is_found() -> None:
    """The test above can fail, for each kind of name."""
    wrong = [
        "public.adress", "make tset", "incomingctl empty", "incomingctl uploads --stucked", "incomingd --bind",
        "python -m incomingd.configs --write", "incomingd/core/states.py", "offset_mismatched", "upload.complet",
        "append.end", "incomingd_recall_total", "X-Incoming-Token", "Forwarded-To",
    ]  # fmt: skip
    assert [name for name in wrong if is_known(name)] == []


def sh_lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "sh":
                for line in block.text.splitlines():
                    yield page, line.partition("#")[0].strip()


def test_commands_of_shell_blocks_exist() -> None:
    lines = list(sh_lines())
    assert len(lines) > 8
    assert not [(page, line) for page, line in lines if line and command_is_right(line) is False]


def yaml_blocks() -> list[tuple[str, str]]:
    return [(page, block.text) for page in PAGES for block in blocks(page) if block.language == "yaml"]


@pytest.mark.parametrize("text", [text for _, text in yaml_blocks()])
def test_configurations_are_good(text: str, tmp_path: Path) -> None:
    """A configuration in a document is taken, but for files, groups and certificates that only its reader has."""
    file = tmp_path / "incomingd.yaml"
    # What lies on the reader's machine is replaced by what is here.
    for documented in set(re.findall(r"/etc/incomingd/[\w/.]+", text)):
        own = tmp_path / documented.rpartition("/")[2]
        own.write_text("token-of-the-document\n")
        own.chmod(0o600)
        text = text.replace(documented, str(own))
    file.write_text(text.replace("group: webapp", "group: root"))
    try:
        config.load(["--config", str(file)], {})
    except config.ConfigError as error:
        wrong = [str(problem) for problem in error.problems if not problem.key.startswith("public.tls")]
        assert not wrong


def test_configurations_name_known_keys() -> None:
    def flat(tree: dict[str, object], before: str = "") -> Iterator[str]:
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from flat(value, f"{before}{name}.")
            else:
                yield before + name

    found = [key for _, text in yaml_blocks() for key in flat(yaml.safe_load(text))]
    assert len(found) > 10
    assert not set(found) - set(KEYS)


def http_paths() -> set[str]:
    found: set[str] = set()
    for page in PAGES:
        text = text_of(page).replace("…/backend/", "/incoming/1.0/backend/")
        found.update(path.rstrip(".,") for path in re.findall(r"/incoming/1\.0/[\w/.?=<>{}&-]+", text))
    # What stands before every path of the backend in the snippets is none itself.
    return found - {"/incoming/1.0/backend"}


def test_every_path_is_answered(shared_daemon: Daemon) -> None:
    """No path in a document is unknown to both listeners."""
    paths = http_paths()
    assert len(paths) > 8
    unknown = []
    for path in paths:
        answers = [
            requests.get(url + path, timeout=10) for url in (shared_daemon.public_url, shared_daemon.backend_url)
        ]
        if all('"path_unknown"' in answer.text for answer in answers):
            unknown.append(path)
    assert not unknown


def layers() -> list[list[str]]:
    """Return the import rule's layers, as far as they exist, each sorted."""
    rule = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    found = []
    for line in rule:
        there = [
            name
            for name in re.findall(r"\w+", line)
            if (ROOT / "incomingd" / name).is_dir() or (ROOT / "incomingd" / f"{name}.py").is_file()
        ]
        if there:
            found.append(sorted(there))
    return found


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_layers_are_those_of_the_import_rule(page: str) -> None:
    [text] = [block.text for block in blocks(page) if block.text.startswith("cli\n")]
    shown_layers = [sorted(re.split(r" \| ", re.split(r" {2,}", line)[0])) for line in text.splitlines()]
    assert shown_layers == layers()


def test_every_package_has_its_line() -> None:
    table = re.findall(r"^\| `([^`]+)` \|", text_of("CONTRIBUTING.md"), re.MULTILINE)
    parts = {
        shown(path)
        for path in (ROOT / "incomingd").iterdir()
        if (path / "__init__.py").is_file() or (path.suffix == ".py" and path.stem != "__init__")
    }
    assert parts <= set(table)


def test_every_document_is_in_the_index() -> None:
    index = text_of("docs/index.md")
    missing = [path.name for path in (ROOT / "docs").iterdir() if path.is_file() and f"({path.name})" not in index]
    assert set(missing) <= {"index.md"}


def test_the_table_of_statuses_is_current() -> None:
    """Made from the code: `python -m tests.docs.statuses --write` brings it up to date."""
    text = text_of("docs/architecture.md")
    assert statuses.current(text) == text
    assert statuses.current(text.replace("| `lost` | final |", "| `lost` | - |")) == text


def test_python_blocks_are_python() -> None:
    found = [block for page in PAGES for block in blocks(page) if block.language == "python"]
    assert found
    for block in found:
        ast.parse(block.text)
        assert block.mark.startswith("snippet: "), f"a block of {block.page} that no test runs"
