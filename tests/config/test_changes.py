"""What a reload can change, and what it says of the rest."""

from __future__ import annotations

from pathlib import Path

from incomingd.config import Settings, changes, reloaded
from incomingd.config.keys import keys
from tests.config.conftest import LoadFile
from tests.config.test_loading import ELSEWHERE, OTHER_VALUES, yaml_of

# What a running daemon cannot change: its name, where it listens, what its volume and registry are made of.
NEEDS_RESTART = {
    "instance",
    "data_dir",
    "durability",
    "public.address",
    "backend.address",
    "backend.base_url",
    "admin.address",
    "files.mode",
    "files.group",
    "peer.address",
    "peer.advertised_address",
    "agent.address",
    "registry.url",
    "registry.lease_s",
    "handover.concurrency",
    "limits.free_space_reserve_bytes",
    "limits.header_bytes",
    "limits.idle_connection_timeout_s",
    "storage.fast_path",
    "storage.threads",
}


def test_every_change_of_a_key_is_seen_and_told_apart(load_file: LoadFile) -> None:
    """For each key: a changed value is found, and it is said whether it takes effect."""
    before = load_file().settings
    for key, value in OTHER_VALUES.items():
        found = changes(before, load_file(yaml_of(key, value)).settings)
        side = found.needs_restart if key in NEEDS_RESTART else found.applied
        assert key in {change.key for change in side}, key
    assert changes(before, load_file().settings) == changes(before, before)
    assert not changes(before, before).applied


def test_what_needs_a_restart_stays_as_it_was(load_file: LoadFile) -> None:
    before = load_file("hold_s: 1\nstorage: {threads: 1}\nbackend: {address: '127.0.0.1:9'}").settings
    after = load_file("hold_s: 2\nstorage: {threads: 2}\nbackend: {address: '127.0.0.1:8'}").settings
    now = reloaded(before, after)
    assert (now.hold_s, now.storage.threads) == (2, 1)
    assert now.backend == before.backend, "a URL made from the address follows the address that is in force"
    assert now.admin == before.admin
    assert {change.key for change in changes(before, after).needs_restart} == {
        "storage.threads",
        "backend.address",
        "backend.base_url",
        "admin.address",
    }
    assert not changes(now, reloaded(now, after)).applied, "what was taken over is not taken over again"


def test_a_listener_gets_another_certificate_but_does_not_turn_to_https(
    load_file: LoadFile, pems: dict[str, Path], tmp_path: Path
) -> None:
    def with_tls(cert: Path) -> str:
        return f"public:\n  tls: {{cert: {cert}, key: {pems['key']}}}"

    plain = load_file().settings
    copy = tmp_path / "renewed.pem"
    copy.write_bytes(pems["cert"].read_bytes())
    tls, renewed = load_file(with_tls(pems["cert"])).settings, load_file(with_tls(copy)).settings
    assert [change.key for change in changes(tls, renewed).applied] == ["public.tls.cert"]
    assert [change.key for change in changes(plain, tls).needs_restart] == ["public.tls.cert", "public.tls.key"]
    assert not reloaded(plain, tls).public.tls.enabled
    assert reloaded(tls, renewed).public.tls.cert == copy


def test_keys_of_the_fleet_change_but_its_listener_neither_comes_nor_goes(load_file: LoadFile) -> None:
    def with_keys(*keys_: str) -> Settings:
        return load_file(f"peer: {{keys: [{', '.join(keys_)}]}}").settings

    old, both, none = with_keys("a" * 16), with_keys("a" * 16, "b" * 16), load_file().settings
    assert [str(change) for change in changes(old, both).applied] == ["peer.keys: [***] -> [***, ***]"]
    for before, after in ((none, old), (old, none)):
        assert [change.key for change in changes(before, after).needs_restart] == ["peer.keys"]
        assert reloaded(before, after).peer.keys == before.peer.keys


def test_a_change_is_told_in_words_and_without_secrets(load_file: LoadFile) -> None:
    before = load_file("limits: {header_bytes: 16 KiB}\nbackend: {tokens: hush-hush-hush-hush}").settings
    after = load_file("limits: {header_bytes: 32 KiB}\nbackend: {tokens: [lush-lush-lush-lush, other]}").settings
    found = changes(before, after)
    assert [str(change) for change in found.needs_restart] == ["limits.header_bytes: 16 KiB -> 32 KiB"]
    assert [str(change) for change in found.applied] == ["backend.tokens: [***] -> [***, ***]"]


def test_every_key_says_whether_a_reload_applies_it() -> None:
    assert {key.name for key in keys().values() if not key.reloadable} == NEEDS_RESTART
    assert not ELSEWHERE & NEEDS_RESTART - {"registry.url"}
