"""Where settings come from, which source wins, and what is said of mistakes."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incomingd.config import ConfigError, Problem, Settings, TcpAddress, UnixAddress, load
from incomingd.config.keys import keys, value_of
from tests.config.conftest import LoadFile, Mistakes


def short(problems: tuple[Problem, ...]) -> list[tuple[str, str, str]]:
    return [(problem.code, problem.source, problem.key) for problem in problems]


# ------------------------------------------------------------------------------------------------------------- defaults


def test_without_anything_it_is_a_whole_service_on_one_machine(load_file: LoadFile, tmp_path: Path) -> None:
    loaded = load_file()
    assert loaded.config_file is None
    assert loaded.warnings == ()
    assert loaded.settings == Settings()
    assert loaded.settings.public.address == TcpAddress("0.0.0.0", 4000)
    assert loaded.settings.backend.address == loaded.settings.admin.address == TcpAddress("127.0.0.1", 4001)
    assert loaded.settings.backend.base_url == "http://127.0.0.1:4001"
    assert loaded.settings.data_dir == tmp_path / "incoming-data"
    assert loaded.settings.instance.endswith(":4000")
    assert loaded.settings.durability == "acknowledgement"


def test_defaults_follow_what_they_depend_on(load_file: LoadFile) -> None:
    loaded = load_file("backend: {address: '[::1]:7'}\npublic: {address: 'unix:/run/p'}")
    assert loaded.settings.admin.address == TcpAddress("::1", 7)
    assert loaded.settings.backend.base_url == "http://[::1]:7"
    assert ":" not in loaded.settings.instance
    assert loaded.origin_of("admin.address") == "default: the same as backend.address"
    assert loaded.origin_of("backend.address") == "c.yaml:1"


def test_a_wildcard_address_is_no_url(load_file: LoadFile) -> None:
    """Nobody can connect to 0.0.0.0, so download URLs have the host's name instead."""
    base_url = load_file("backend: {address: '0.0.0.0:7'}").settings.backend.base_url
    assert base_url.endswith(":7")
    assert "0.0.0.0" not in base_url


def test_the_state_directory_of_systemd_holds_the_data(load_file: LoadFile) -> None:
    loaded = load_file(environ={"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"})
    assert loaded.settings.data_dir == Path("/var/lib/a")
    assert loaded.origin_of("data_dir") == "default: $STATE_DIRECTORY"
    assert load_file("data_dir: /x", environ={"STATE_DIRECTORY": "/a"}).settings.data_dir == Path("/x")


# -------------------------------------------------------------------------------------------------------------- sources


def test_options_beat_the_environment_which_beats_the_file(load_file: LoadFile) -> None:
    text = "hold_s: 1\nlimits:\n  connections: 1\nstorage: {threads: 1}\n"
    environ = {"INCOMING_LIMITS__CONNECTIONS": "2", "INCOMING_STORAGE__THREADS": "2"}
    loaded = load_file(text, "--storage.threads", "3", environ=environ)
    read = loaded.settings
    assert (read.hold_s, read.limits.connections, read.storage.threads, read.shutdown.grace_s) == (1, 2, 3, 10)
    assert [
        loaded.origin_of(key) for key in ("hold_s", "limits.connections", "storage.threads", "shutdown.grace_s")
    ] == [
        "c.yaml:1",
        "environment variable INCOMING_LIMITS__CONNECTIONS",
        "option --storage.threads",
        "default",
    ]


# One value for each key that is not its default, as one writes it.
OTHER_VALUES = {
    "instance": "web1",
    "data_dir": "/data",
    "durability": "none",
    "hold_s": "1.5",
    "storage.fast_path": "never",
    "public.address": "[::]:80",
    "public.base_url": "https://u.example/x",
    "public.allowed_origins": "https://a.example,https://b.example",
    "public.trusted_proxies": "10.0.0.0/8,unix",
    "public.open_creation": "true",
    "backend.address": "localhost:7",
    "backend.base_url": "http://app:7",
    "backend.tokens": "0123456789abcdef,fedcba9876543210",
    "admin.address": "unix:/run/admin",
    "peer.address": "127.0.0.1:7",
    "peer.advertised_address": "up1.example:7",
    "peer.allow_plaintext": "true",
    "peer.backfill_bytes_per_s": "64 MiB",
    "agent.address": "127.0.0.1:7",
    "files.mode": "0644",
    "files.group": "root",
    "handover.allowed_hosts": "*.example,10.0.0.0/8",
    "limits.upload_bytes": "10 GiB",
    "limits.open_uploads_per_address": "9",
    "limits.upload_bytes_per_s": "1 MiB",
    "limits.address_bytes_per_s": "10 MiB",
    "limits.total_bytes_per_s": "100 MiB",
    "limits.connections_per_address": "100",
    "limits.free_space_reserve_bytes": "1 KiB",
    "limits.header_bytes": "32 KiB",
    "limits.metadata_bytes": "4 KiB",
    "tus.checksum_trailer": "no",
    "log.level": "debug",
    "log.format": "json",
    "log.client_address": "masked",
    "handover.backoff_max_s": "77",
    "uploads.expires_in_max_s": "700000",
} | dict.fromkeys(
    (
        "handover.timeout_s",
        "handover.confirm_timeout_s",
        "handover.give_up_after_s",
        "handover.backoff_first_s",
        "records.keep_s",
        "handover.concurrency",
        "registry.lease_s",
        "uploads.expires_in_s",
        "uploads.sweep_interval_s",
        "limits.body_idle_timeout_s",
        "limits.body_min_bytes_per_s",
        "limits.body_min_rate_after_s",
        "limits.idle_connection_timeout_s",
        "limits.connections",
        "storage.threads",
        "drain.deadline_s",
        "drain.cuts_per_s",
        "shutdown.grace_s",
    ),
    "7",
)
# Files that must exist, and keys that need others or a listener; they have tests of their own.
ELSEWHERE = {key for key in keys() if ".tls." in key} | {
    "backend.tokens_file",
    "registry.url",
    "peer.keys",
    "peer.keys_file",
}


def yaml_of(key: str, value: str) -> str:
    *groups, leaf = key.split(".")
    lines = [f"{'  ' * depth}{group}:" for depth, group in enumerate(groups)]
    return "\n".join([*lines, f"{'  ' * len(groups)}{leaf}: '{value}'"])


def test_every_key_is_tried_below() -> None:
    assert OTHER_VALUES.keys() | ELSEWHERE == keys().keys()


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_every_key_can_be_set_in_each_source_and_means_the_same(load_file: LoadFile, key: str) -> None:
    value = OTHER_VALUES[key]
    variable = "INCOMING_" + key.upper().replace(".", "__")
    by_file = load_file(yaml_of(key, value))
    by_variable = load_file(environ={variable: value})
    by_option = load_file(None, f"--{key}", value)
    assert by_file.settings == by_variable.settings == by_option.settings
    assert value_of(by_file.settings, key) != value_of(load_file().settings, key)
    assert by_file.origin_of(key).startswith("c.yaml:")
    assert by_variable.origin_of(key) == f"environment variable {variable}"
    assert by_option.origin_of(key) == f"option --{key}"


@pytest.mark.parametrize(
    "written", ["[a.example, 'b.example:8']", "a.example, b.example:8", "\n    - a.example\n    - b.example:8"]
)
def test_a_list_is_a_yaml_list_or_a_text_with_commas(load_file: LoadFile, written: str) -> None:
    hosts = load_file(f"handover:\n  allowed_hosts: {written}").settings.handover.allowed_hosts
    assert str(hosts) == "a.example, b.example:8"


@pytest.mark.parametrize("word", ["none", "null", "~", "", "None"])
def test_an_optional_value_can_be_taken_away_by_a_stronger_source(load_file: LoadFile, word: str) -> None:
    loaded = load_file("limits: {upload_bytes: 5}", f"--limits.upload_bytes={word}")
    assert loaded.settings.limits.upload_bytes is None
    assert load_file(f"limits: {{upload_bytes: {word}}}").settings.limits.upload_bytes is None


def test_an_empty_variable_counts_as_not_set(load_file: LoadFile) -> None:
    """Compose files and unit files set variables to nothing to say that they are not set."""
    assert load_file("hold_s: 3", environ={"INCOMING_HOLD_S": ""}).settings.hold_s == 3


def test_yaml_does_not_change_what_was_written(load_file: LoadFile) -> None:
    """YAML 1.1 would read an octal number, a sexagesimal one and a truth value."""
    loaded = load_file("files: {mode: 0644}\ninstance: 22:22\npublic: {open_creation: on}")
    assert loaded.settings.files.mode == 0o644
    assert loaded.settings.instance == "22:22"
    assert loaded.settings.public.open_creation is True


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "public:\nlog:\n", "\ufeffhold_s: 10\n"])
def test_an_empty_file_and_empty_groups_change_nothing(load_file: LoadFile, text: str) -> None:
    assert load_file(text).settings == Settings()


def test_anchors_work(load_file: LoadFile) -> None:
    loaded = load_file("limits:\n  header_bytes: &size 8 KiB\n  metadata_bytes: *size\n")
    assert loaded.settings.limits.metadata_bytes == 8192


def test_the_file_of_the_machine_is_read_where_it_is_and_no_other_is_named(tmp_path: Path) -> None:
    machine = tmp_path / "incomingd.yaml"
    assert load([], {}, default_file=machine).config_file is None
    machine.write_text("hold_s: 3")
    loaded = load([], {}, default_file=machine)
    assert (loaded.settings.hold_s, loaded.config_file) == (3, machine)
    other = tmp_path / "other.yaml"
    other.write_text("")
    assert load(["--config", str(other)], {}, default_file=machine).settings.hold_s == 10


def test_a_file_of_the_machine_that_cannot_even_be_looked_at_is_not_passed_over(tmp_path: Path) -> None:
    """To start with the defaults instead could open what the file closes."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load([], {}, default_file=tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    "variable",
    [
        "INCOMING_SERVICE_HOST",
        "INCOMING_SERVICE_PORT_HTTP",
        "INCOMING_PORT",
        "INCOMING_PORT_4000_TCP_ADDR",
        "INCOMING_WEB_PORT",
    ],
)
def test_variables_that_kubernetes_makes_for_a_service_called_incoming_are_not_ours(
    load_file: LoadFile, variable: str
) -> None:
    assert load_file(environ={variable: "tcp://10.0.0.1:4000", "INCOMINGD_OTHER": "x"}).settings == Settings()


# ------------------------------------------------------------------------------------------------------------- mistakes


def test_every_mistake_of_every_source_is_reported_at_once(mistakes: Mistakes) -> None:
    text = """\
public:
  adress: 1.2.3.4:5
  tls: 5
limits:
  header_bytes: 10
  header_bytes: 20 KiB
hold_s: x
uploads: {expires_in_s: 90, expires_in_max_s: 80}
files: {mode: 9}
"""
    environ = {"INCOMING_DURABILITY": "all", "INCOMING_FOO": "1"}
    found = mistakes(text, "--log.levle", "info", "stray", "--storage.threads", "1.5", "--hold_s", environ=environ)
    assert sorted(short(found)) == sorted(
        [
            ("unknown_key", "c.yaml:2", "public.adress"),
            ("bad_value", "c.yaml:3", "public.tls"),
            ("duplicate_key", "c.yaml:6", "limits.header_bytes"),
            ("bad_value", "c.yaml:5", "limits.header_bytes"),
            ("bad_value", "c.yaml:7", "hold_s"),
            ("conflict", "c.yaml:8", "uploads.expires_in_s"),
            ("bad_value", "c.yaml:9", "files.mode"),
            ("bad_value", "environment variable INCOMING_DURABILITY", "durability"),
            ("unknown_key", "environment variable INCOMING_FOO", "foo"),
            ("unknown_key", "option --log.levle", "log.levle"),
            ("bad_option", "command line", ""),
            ("bad_value", "option --storage.threads", "storage.threads"),
            ("bad_option", "option --hold_s", "hold_s"),
        ]
    )


def test_a_mistake_says_where_what_was_expected_and_what_was_probably_meant(load_file: LoadFile) -> None:
    with pytest.raises(ConfigError) as refused:
        load_file("hold_s: 61\nlimits: {uplod_bytes: 5}")
    assert str(refused.value) == (
        "the configuration has 2 mistakes:\n"
        "\n"
        "  c.yaml:1: hold_s = '61' is too high\n"
        "      expected: a number of seconds, from 0 to 60\n"
        "  c.yaml:2: there is no key limits.uplod_bytes\n"
        "      did you mean: limits.upload_bytes\n"
    )


def test_mistakes_stand_in_the_order_in_which_one_puts_them_right(mistakes: Mistakes) -> None:
    """The file from top to bottom, then the environment, then options, then what follows from what was set."""
    text = "hold_s: x\nfoo: 1\nuploads: {expires_in_max_s: 60}\nfiles: {mode: 9}\nbackend: {address: 'unix:/b'}"
    found = mistakes(
        text, "--storage.threads=0", "--bar", "x", environ={"INCOMING_BAR": "x", "INCOMING_LOG__LEVEL": "x"}
    )
    assert [problem.source for problem in found] == [
        "c.yaml:1",
        "c.yaml:2",
        "c.yaml:3",
        "c.yaml:4",
        "environment variable INCOMING_BAR",
        "environment variable INCOMING_LOG__LEVEL",
        "option --bar",
        "option --storage.threads",
        "default",
    ]


@pytest.mark.parametrize(
    "text,nearest",
    [
        ("public: {adress: x}", "public.address"),
        ("open_creation: true", "public.open_creation"),
        ("uploads: {keep_s: 5}", "records.keep_s"),
        ("limit: {upload_bytes: 5}", ""),
        ("hold-s: 5", "hold_s"),
        ("Hold_S: 5", "hold_s"),
        ("s3: {address: x}", ""),
        ("zzz: 1", ""),
    ],
)
def test_the_nearest_key(mistakes: Mistakes, text: str, nearest: str) -> None:
    (problem,) = mistakes(text)
    assert (problem.code, problem.nearest) == ("unknown_key", nearest)


def test_a_key_is_suggested_as_its_source_spells_it(mistakes: Mistakes) -> None:
    found = mistakes(None, "--public.adress=x", environ={"INCOMING_PUBLIC__ADRESS": "x", "INCOMING_hold_s": "1"})
    assert [problem.nearest for problem in found] == ["INCOMING_PUBLIC__ADDRESS", "INCOMING_HOLD_S", "--public.address"]


def test_where_no_key_is_near_all_are_told(mistakes: Mistakes) -> None:
    (problem,) = mistakes("tus: {zzz: 1}")
    assert problem.expected == "one of tus: checksum_trailer"
    (problem,) = mistakes("s3: {address: x}")
    assert problem.expected.startswith("instance, data_dir, ")
    assert problem.expected.endswith(" tus, storage, drain, shutdown, log")


BAD_FILES = {
    "not UTF-8": (b"hold_s: 1\ninstance: \xff\n", "c.yaml:2", "UTF-8"),
    "a control character": (b"hold_s: 1\ninstance: \x00\n", "c.yaml:2", "YAML does not allow"),
    "broken": (b"hold_s: 1\nlog: [\n", "c.yaml:3", "not YAML"),
    "tabs": (b"log:\n\tlevel: info\n", "c.yaml:2", "not YAML"),
    "a list": (b"- hold_s: 1\n", "c.yaml:1", "does not hold keys"),
    "a text": (b"hello\n", "c.yaml:1", "does not hold keys"),
    "two documents": (b"hold_s: 1\n---\nhold_s: 2\n", "c.yaml:2", "not YAML"),
    "an unknown alias": (b"hold_s: *x\n", "c.yaml:1", "not YAML"),
    "too large": (b"#" * (1 << 20) + b"#", "c.yaml", "larger than"),
    "too deep": (b"[" * 2000, "c.yaml", "deep"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_configuration_file(mistakes: Mistakes, case: str) -> None:
    content, source, said = BAD_FILES[case]
    (problem,) = mistakes(content)
    assert (problem.code, problem.source) == ("bad_file", source)
    assert said in problem.message


@pytest.mark.parametrize(
    "text,said",
    [
        ("hold_s: {a: 1}", "has no keys below it"),
        ("hold_s: [1, 2]", "is a list"),
        ("hold_s:", "has no value"),
        ("hold_s: !!python/object:os.system 1", "tag"),
        ("hold_s: nan", "is not a finite number"),
        ("hold_s: inf", "is not a finite number"),
        ("hold_s: true", "is not a number"),
        ("? [a]\n: 1", "a key must be a plain word"),
        ("public: [address]", "is a group of keys"),
        ("handover: {allowed_hosts: [[a]]}", "is itself a list"),
        ("public: {allowed_origins: }", "has no value"),
        ("storage: {threads: 1.5}", "is not a whole number"),
        ("public: {open_creation: perhaps}", "is neither true nor false"),
        ("log: {level: loud}", "is not among the choices"),
        ("registry: {url: 'http://x'}", "does not begin with redis://"),
        ("peer: {address: 'unix:/run/x'}", "Unix socket"),
        ("peer: {keys: [short]}", "can be guessed"),
        ("backend: {address: 'unix:/run/x'}", "Unix socket"),
        ("backend: {address: x}", "no host and port"),
    ],
)
def test_wrong_shapes_and_values(mistakes: Mistakes, text: str, said: str) -> None:
    (problem,) = mistakes(text)
    assert said in problem.message


def test_files_that_cannot_be_read(mistakes: Mistakes, tmp_path: Path) -> None:
    (missing,) = mistakes(None, "--config", "nowhere.yaml")
    assert str(missing) == "nowhere.yaml: cannot be read: No such file or directory"
    (folder,) = mistakes(None, "--config", ".")
    assert "Is a directory" in folder.message


@pytest.mark.parametrize(
    "options,said",
    [
        (["--config"], "the value is missing"),
        (["--hold_s"], "the value is missing"),
        (["--version=3"], "version"),
        (["--hold"], "there is no key hold"),
        (["-c"], "is not an option"),
        (["--", "x"], "is not an option"),
        (["--public", "x"], "is a group of keys"),
    ],
)
def test_wrong_command_lines(mistakes: Mistakes, options: list[str], said: str) -> None:
    assert said in mistakes(None, *options)[0].message


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_makes_anything_but_settings_or_a_list_of_mistakes(load_file: LoadFile, content: bytes) -> None:
    try:
        load_file(content)
    except ConfigError as refused:
        said = str(refused)
    else:
        said = "settings"
    assert said


@given(key=st.sampled_from(sorted(keys())), value=st.text(max_size=50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_makes_anything_but_settings_or_a_list_of_mistakes(load_file: LoadFile, key: str, value: str) -> None:
    source = f"option --{key}"
    try:
        found = {load_file(None, f"--{key}={value}").origin_of(key)}
    except ConfigError as refused:
        found = {problem.source for problem in refused.problems}
    assert source in found


# ------------------------------------------------------------------------------------------- what does not fit together


TOKEN = "0123456789abcdef"
FLEET = f"peer: {{address: '127.0.0.1:9', keys: {TOKEN}}}"


@pytest.mark.parametrize(
    "text,key",
    [
        ("backend: {address: '0.0.0.0:4000'}\nadmin: {address: 'localhost:9'}", "backend.address"),
        ("admin: {address: '0.0.0.0:4000'}", "admin.address"),
        (
            f"backend: {{address: '0.0.0.0:4000', tokens: {TOKEN}}}\nadmin: {{address: 'localhost:9'}}",
            "backend.address",
        ),
        ("handover: {backoff_first_s: 10, backoff_max_s: 9}", "handover.backoff_first_s"),
        ("limits: {metadata_bytes: 20 KiB}", "limits.metadata_bytes"),
        ("uploads: {expires_in_max_s: 60}", "uploads.expires_in_max_s"),
        ("public: {tls: {cert: /etc/passwd}}", "public.tls.cert"),
        ("backend: {tls: {key: /etc/passwd}}", "backend.tls.key"),
        ("peer: {tls: {key: /etc/passwd}}", "peer.tls.key"),
        ("peer: {address: '0.0.0.0:9'}", "peer.address"),
        ("peer: {address: '127.0.0.1:4001'}", "peer.address"),
        ("agent: {address: '127.0.0.1:4001'}", "agent.address"),
        (f"{FLEET}\nagent: {{address: '127.0.0.1:9'}}", "agent.address"),
        ("peer: {advertised_address: '0.0.0.0:9'}", "peer.advertised_address"),
        (f"peer: {{keys: {TOKEN}}}\nregistry: {{url: 'redis://r'}}", "registry.url"),
        ("peer: {address: '127.0.0.1:9'}\nregistry: {url: 'redis://r'}", "registry.url"),
    ],
)
def test_settings_that_contradict_each_other(mistakes: Mistakes, text: str, key: str) -> None:
    assert ("conflict", key) in {(problem.code, problem.key) for problem in mistakes(text)}


def test_a_mistake_is_not_reported_twice_by_what_depends_on_it(mistakes: Mistakes) -> None:
    """`uploads.expires_in_max_s` is unreadable, so nothing is said of its relation to others."""
    assert [problem.key for problem in mistakes("uploads: {expires_in_s: 9999999, expires_in_max_s: x}")] == [
        "uploads.expires_in_max_s"
    ]


def test_a_group_must_exist(mistakes: Mistakes) -> None:
    (problem,) = mistakes("files: {group: no-such-group}")
    assert (problem.key, problem.source) == ("files.group", "c.yaml:1")


# --------------------------------------------------------------------------------------------------------------- fleet


def test_a_fleet_is_a_registry_in_redis_a_peer_address_and_a_key(load_file: LoadFile) -> None:
    loaded = load_file(f"{FLEET}\nregistry: {{url: 'redis://one/2'}}")
    registry, peer = loaded.settings.registry, loaded.settings.peer
    assert loaded.warnings == ()
    assert registry.url.target is not None
    assert (registry.url.target.hosts, registry.url.target.database, registry.lease_s) == ((("one", 6379),), 2, 5)
    assert (peer.listens, peer.url) == (True, "http://127.0.0.1:9")


def test_a_single_instance_has_no_peer_listener(load_file: LoadFile) -> None:
    for text in ("", "peer: {address: '127.0.0.1:9'}", f"peer: {{keys: {TOKEN}}}"):
        settings = load_file(text).settings
        assert settings.registry.url.target is None
        assert (settings.peer.listens, settings.peer.url) == (False, "")


def test_peers_are_told_where_they_reach_an_instance(load_file: LoadFile, pems: dict[str, Path]) -> None:
    """A wildcard is no address to connect to; TLS is part of what is told."""
    wildcard = load_file(f"peer: {{address: '0.0.0.0:9', keys: {TOKEN}, allow_plaintext: true}}").settings.peer
    assert wildcard.url.endswith(":9")
    assert "0.0.0.0" not in wildcard.url
    text = f"peer: {{address: '0.0.0.0:9', keys: {TOKEN}, advertised_address: 'up1:10', tls: {{cert: %s, key: %s}}}}"
    secure = load_file(text % (pems["cert"], pems["key"])).settings.peer
    assert secure.url == "https://up1:10"


def test_a_mistake_of_a_fleet_is_blamed_on_what_was_set(mistakes: Mistakes) -> None:
    problems = mistakes("registry: {url: 'redis://:hush@r'}")
    assert {problem.key for problem in problems} == {"registry.url"}
    assert {word for problem in problems for word in ("peer.address", "peer.keys_file") if word in problem.message} == {
        "peer.address",
        "peer.keys_file",
    }


@pytest.mark.parametrize("name,said", [("nowhere", "cannot be read"), ("key", "holds no certificate")])
def test_who_signs_certificates_of_peers_is_read_before_anything_starts(
    mistakes: Mistakes, load_file: LoadFile, pems: dict[str, Path], name: str, said: str
) -> None:
    (problem,) = mistakes(f"peer: {{tls: {{ca: {pems[name]}}}}}")
    assert (problem.code, problem.key) == ("bad_file", "peer.tls.ca")
    assert said in problem.message
    assert load_file(f"peer: {{tls: {{ca: {pems['cert']}}}}}").settings.peer.tls.ca == pems["cert"]


def test_a_file_holds_the_keys_of_the_fleet(load_file: LoadFile) -> None:
    load_file()
    secret_file("keys", f"# newest first\n{TOKEN}2\n{TOKEN}1\n")
    keys_ = load_file("peer: {keys_file: keys}").settings.peer.keys
    assert [key.get_secret_value() for key in keys_] == [f"{TOKEN}2", f"{TOKEN}1"]


# -------------------------------------------------------------------------------------------------------- certificates


@pytest.fixture(scope="session")
def certificate(pems: dict[str, Path]) -> tuple[Path, Path]:
    """A certificate and its key, which a listener could use."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pems["cert"], pems["key"])
    return pems["cert"], pems["key"]


def test_a_certificate_makes_urls_https_and_counts_for_the_shared_listener(
    load_file: LoadFile, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    loaded = load_file(f"backend:\n  tls: {{cert: {cert}, key: {key}}}")
    assert loaded.settings.backend.base_url == "https://127.0.0.1:4001"
    assert loaded.settings.admin.tls == loaded.settings.backend.tls
    assert loaded.origin_of("admin.tls.cert") == "default: the same as backend.tls"
    apart = load_file(f"backend:\n  tls: {{cert: {cert}, key: {key}}}\nadmin: {{address: 'unix:/run/a'}}")
    assert not apart.settings.admin.tls.enabled


def test_one_listener_has_one_certificate(mistakes: Mistakes, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    (problem,) = mistakes(f"admin:\n  tls: {{cert: {cert}, key: {key}}}")
    assert (problem.code, problem.key) == ("conflict", "admin.tls.cert")


@pytest.mark.parametrize(
    "cert,key,said",
    [
        ("cert", "nowhere", "cannot be read: No such file"),
        ("cert", "cert", "no PEM certificate with its key"),
        ("key", "key", "no PEM certificate with its key"),
        ("cert", "other", "is not the key of"),
        ("cert", "locked", "without a pass phrase"),
    ],
)
def test_certificates_are_tried_before_anything_starts(
    mistakes: Mistakes, pems: dict[str, Path], cert: str, key: str, said: str
) -> None:
    """Nor does a key with a pass phrase make OpenSSL ask on the terminal for it."""
    (problem,) = mistakes(f"public:\n  tls: {{cert: {pems[cert]}, key: {pems[key]}}}")
    assert (problem.code, problem.source) == ("bad_file", "c.yaml:2")
    assert said in problem.message


# -------------------------------------------------------------------------------------------------------------- secrets


def tokens_of(loaded_settings: Settings) -> list[str]:
    return [token.get_secret_value() for token in loaded_settings.backend.tokens]


def secret_file(name: str, content: str, mode: int = 0o600) -> Path:
    path = Path(name).absolute()
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_file_holds_tokens_one_a_line(load_file: LoadFile) -> None:
    load_file()  # goes to a fresh directory
    path = secret_file("tokens", f"# for shop and wiki\n\n{TOKEN}1\r\n  {TOKEN}2  \n")
    loaded = load_file("backend: {tokens_file: tokens}")
    assert tokens_of(loaded.settings) == [f"{TOKEN}1", f"{TOKEN}2"]
    assert loaded.settings.backend.tokens_file == path
    assert loaded.origin_of("backend.tokens") == f"{path} (c.yaml:1)"
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    "content,said",
    [("", "no entry"), ("# none\n", "no entry"), ("a b\n", "entry 1"), ("x" * ((1 << 20) + 1), "larger than")],
)
def test_a_file_that_holds_no_tokens(mistakes: Mistakes, load_file: LoadFile, content: str, said: str) -> None:
    load_file()
    secret_file("tokens", content)
    (problem,) = mistakes("backend: {tokens_file: tokens}")
    assert said in problem.message
    assert "a b" not in str(problem)


def test_a_file_of_tokens_that_is_not_there(mistakes: Mistakes) -> None:
    (problem,) = mistakes("hold_s: 1\nbackend: {tokens_file: nowhere}")
    assert (problem.code, problem.source, problem.key) == ("bad_file", "c.yaml:2", "backend.tokens_file")


def test_a_secret_and_its_file_are_one_key_of_which_the_stronger_source_wins(load_file: LoadFile) -> None:
    load_file()
    path = secret_file("tokens", f"{TOKEN}-file\n")
    environ = {"INCOMING_BACKEND__TOKENS": f"{TOKEN}-env"}
    assert tokens_of(load_file("backend: {tokens_file: tokens}", environ=environ).settings) == [f"{TOKEN}-env"]
    assert tokens_of(load_file(None, f"--backend.tokens_file={path}", environ=environ).settings) == [f"{TOKEN}-file"]


def test_one_source_cannot_have_both(mistakes: Mistakes, load_file: LoadFile) -> None:
    load_file()
    secret_file("tokens", f"{TOKEN}\n")
    (problem,) = mistakes(f"backend:\n  tokens: {TOKEN}\n  tokens_file: tokens")
    assert (problem.code, problem.source) == ("conflict", "c.yaml:3")


def test_no_mistake_shows_a_secret(mistakes: Mistakes) -> None:
    problems = mistakes(
        "backend: {tokens: [hush hush]}", "--backend.tokenz=hush", environ={"INCOMING_BACKEND__TOKEN": "hush"}
    )
    assert len(problems) == 3
    assert "hush" not in str(ConfigError(problems))


# ------------------------------------------------------------------------------------------------------------- warnings


@pytest.mark.parametrize(
    "text,options,key",
    [
        ("backend: {address: '0.0.0.0:9'}\nadmin: {address: 'localhost:8'}", [], "backend.address"),
        ("admin: {address: '0.0.0.0:9'}", [], "admin.address"),
        ("", ["--backend.tokens", TOKEN], "backend.tokens"),
        ("backend: {tokens: short}", [], "backend.tokens"),
        ("", ["--peer.keys", TOKEN], "peer.keys"),
        ("peer: {address: '127.0.0.1:9'}", [], "peer.address"),
        (FLEET, ["--registry.url", "redis://:hush@r"], "registry.url"),
    ],
)
def test_what_works_and_is_probably_not_meant(load_file: LoadFile, text: str, options: list[str], key: str) -> None:
    (warning,) = load_file(text, *options).warnings
    assert (warning.code, warning.key) == ("doubtful", key)


def test_secrets_that_every_user_can_read_are_pointed_out(load_file: LoadFile, tmp_path: Path) -> None:
    load_file()
    secret_file("tokens", TOKEN, 0o644)
    (of_twin,) = load_file("backend: {tokens_file: tokens}").warnings
    assert of_twin.key == "backend.tokens_file"
    config = secret_file("open.yaml", f"backend: {{tokens: {TOKEN}}}", 0o644)
    (of_config,) = load(["--config", str(config)], {}).warnings
    assert (of_config.key, of_config.source) == ("backend.tokens", f"{config}:1")
    config.chmod(0o640)
    assert load(["--config", str(config)], {}).warnings == ()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().hold_s = 3


def test_a_unix_socket_for_web_apps_needs_a_base_url(load_file: LoadFile) -> None:
    loaded = load_file("backend: {address: 'unix:/run/b', base_url: 'http://b.example'}")
    assert loaded.settings.admin.address == UnixAddress(Path("/run/b"))
