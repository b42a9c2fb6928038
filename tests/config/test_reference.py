"""What is made from the settings: reference file, page, schema, help, and the print of what is in force."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml

from incomingd.config import Settings, parse
from incomingd.config.__main__ import generated_files
from incomingd.config.effective import render_effective
from incomingd.config.keys import groups, keys
from incomingd.config.reference import json_schema, reference_markdown, reference_yaml
from tests.config.conftest import LoadFile
from tests.config.test_loading import OTHER_VALUES, yaml_of
from tests.support.machine import ROOT

Accepts = Callable[[object], bool]


@pytest.mark.parametrize("name", generated_files())
def test_what_is_made_from_the_settings_is_current(name: str) -> None:
    """Else: `python -m incomingd.config --write`."""
    assert (ROOT / name).read_text(encoding="utf-8") == generated_files()[name]


def test_the_command_says_so_too() -> None:
    command = [sys.executable, "-m", "incomingd.config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_reference_file_changes_nothing(load_file: LoadFile) -> None:
    loaded = load_file(reference_yaml())
    assert loaded.settings == Settings()
    assert not loaded.origins


def test_every_line_of_the_reference_file_can_be_taken_in(load_file: LoadFile) -> None:
    """With every key's `#` taken away it is a whole configuration, of the defaults."""
    text = re.sub(r"^( *)#(\w+: )", r"\1\2", reference_yaml(), flags=re.MULTILINE)
    loaded = load_file(text, "--instance", Settings().instance)
    assert loaded.origins.keys() == keys().keys()
    assert loaded.settings == Settings()


@pytest.mark.parametrize("reference", [reference_yaml, reference_markdown])
def test_the_reference_says_what_and_why_of_every_key(reference: Callable[[], str]) -> None:
    text = " ".join(re.sub(r"^ *#", "", reference(), flags=re.MULTILINE).split())
    for key in keys().values():
        assert " ".join(key.what.split()) in text, key.name
        assert " ".join(key.why.split()) in text, key.name
        assert key.what.endswith((".", ".)")), key.name
        assert key.why.endswith("."), key.name


@pytest.fixture(scope="session")
def accepts() -> Accepts:
    """Whether an editor with our schema would accept a configuration."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).is_valid


def test_editors_accept_the_reference_file(accepts: Accepts) -> None:
    assert accepts(yaml.safe_load(reference_yaml()))
    assert accepts(yaml.safe_load(re.sub(r"^( *)#(\w+: )", r"\1\2", reference_yaml(), flags=re.MULTILINE)))


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_editors_accept_every_value_that_the_daemon_does(accepts: Accepts, key: str) -> None:
    value, text = OTHER_VALUES[key], yaml_of(key, OTHER_VALUES[key])
    plain = value.replace(".", "").isalnum()  # a number or a word, which one writes without quotes
    assert accepts(yaml.safe_load(text.replace("'", "") if plain else text))


@pytest.mark.parametrize(
    "text",
    [
        "public: {adress: x}",
        "hold_s: 61",
        "hold_s: x",
        "limits: {upload_bytes: 10 GB}",
        "log: {level: loud}",
        "public: 5",
        "public: {open_creation: 5}",
        "s3: {}",
        "registry: {url: 'redis:'}",
    ],
)
def test_editors_refuse_mistakes(accepts: Accepts, text: str) -> None:
    assert not accepts(yaml.safe_load(text))


def test_editors_show_what_a_key_is_and_its_default() -> None:
    properties: dict[str, Any] = json_schema()["properties"]
    assert properties["limits"]["properties"]["header_bytes"]["default"] == "16 KiB"
    assert "longest header section" in properties["limits"]["properties"]["header_bytes"]["description"]
    assert not re.search(r'"x-|"title": "[A-Z]', str(properties))


def test_the_print_of_what_is_in_force_can_be_loaded_again(load_file: LoadFile) -> None:
    text = "limits: {header_bytes: 20 KiB, upload_bytes: 1000}\npublic: {address: '[::]:80'}\nfiles: {mode: 600}"
    loaded = load_file(text, environ={"INCOMING_HANDOVER__ALLOWED_HOSTS": "a.example:80,10.0.0.0/8"})
    printed = render_effective(loaded)
    again = load_file(printed)
    assert again.settings == loaded.settings
    assert again.origins.keys() == keys().keys()


def test_the_print_says_where_each_value_came_from(load_file: LoadFile) -> None:
    lines = render_effective(load_file("hold_s: 3", "--log.level", "debug")).splitlines()
    said = {line.split("#")[0].strip(): line.split("# ")[1] for line in lines if "  # " in line}
    assert said["hold_s: 3"] == "c.yaml:1"
    assert said["level: debug"] == "option --log.level"
    assert said["grace_s: 10"] == "default"
    assert len([line for line in lines if "  # " in line]) == len(keys())


def test_the_print_shows_no_secret(load_file: LoadFile) -> None:
    printed = render_effective(load_file("backend: {tokens: [hush-hush-hush-hush, second]}"))
    assert "hush" not in printed
    assert "# tokens: [***, ***]" in printed
    assert not load_file(printed).settings.backend.tokens, "the mask is not taken for a token"


def test_the_print_shows_where_redis_is_but_not_how_to_get_in(load_file: LoadFile) -> None:
    fleet = "peer: {address: '127.0.0.1:9', keys: 0123456789abcdef}\nregistry: {url: 'redis://%sr/2'}"
    printed = render_effective(load_file(fleet % "me:hush@"))
    assert "hush" not in printed
    assert "# url: redis://me:***@r/2" in printed
    assert "  url: redis://r/2" in render_effective(load_file(fleet % ""))


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_is_a_page_that_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    page = capsys.readouterr().out
    assert ended.value.code == 0
    assert max(map(len, page.splitlines())) <= max(100, min(columns, 110))
    assert shutil.get_terminal_size().columns == columns
    for key in keys().values():
        assert f"--{key.name} " in page
    for group in {name.partition(".")[0] for name in groups()}:
        assert f"\n{group}: " in page


def test_flags_of_the_command_line() -> None:
    line = parse(["--check-config", "--print-config", "--version"])
    assert (line.check_config, line.print_config, line.version, line.config) == (True, True, True, None)
    nothing = parse([])
    assert (nothing.check_config, nothing.print_config, nothing.version) == (False, False, False)
