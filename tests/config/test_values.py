"""How each kind of value is read from text."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.config import TcpAddress, UnixAddress, parse_address
from incomingd.config.values import (
    format_size,
    parse_base_url,
    parse_hosts,
    parse_instance,
    parse_mode,
    parse_origins,
    parse_path,
    parse_peer_keys,
    parse_size,
    parse_tcp_address,
    parse_tokens,
    parse_trusted_proxies,
)


@pytest.mark.parametrize(
    "text,address",
    [
        ("0.0.0.0:4000", TcpAddress("0.0.0.0", 4000)),
        ("localhost:1", TcpAddress("localhost", 1)),
        ("Upload.Example.org:65535", TcpAddress("upload.example.org", 65535)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("[0:0::1]:80", TcpAddress("::1", 80)),
        ("unix:/run/x.sock", UnixAddress(Path("/run/x.sock"))),
    ],
)
def test_addresses(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address, "what is written can be read"
    assert parse_address(address) is address


def test_a_relative_socket_counts_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_address("unix:s") == UnixAddress(tmp_path / "s")


@pytest.mark.parametrize(
    "text,why",
    [
        ("4000", "no host and port"),
        (":4000", "host is missing"),
        ("", "no host and port"),
        ("h:", "not a port"),
        ("h:0", "not a port"),
        ("h:65536", "not a port"),
        ("h:-1", "not a port"),
        ("h:8x", "not a port"),
        ("h:٣", "not a port"),
        ("::1:80", "brackets"),
        ("[::1:80", "brackets"),
        ("[1.2.3.4]:80", "not an IPv6 address"),
        ("1.2.3:80", "not an IPv4 address"),
        ("256.1.1.1:80", "not an IPv4 address"),
        ("a b:80", "not a host name"),
        ("-a:80", "not a host name"),
        ("a..b:80", "not a host name"),
        ("a\n:80", "not a host name"),
        ("unix:", "path of the socket is missing"),
        ("unix:/run/", "path of the socket is missing"),
        ("unix:/" + "x" * 107, "longer than 107 bytes"),
        ("unix:/" + "ü" * 54, "longer than 107 bytes"),
    ],
)
def test_what_is_no_address(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_address(text)


@pytest.mark.parametrize(
    "text,is_local,is_wildcard",
    [
        ("127.0.0.1:1", True, False),
        ("127.9.9.9:1", True, False),
        ("[::1]:1", True, False),
        ("localhost:1", True, False),
        ("unix:/s", True, False),
        ("0.0.0.0:1", False, True),
        ("[::]:1", False, True),
        ("10.0.0.1:1", False, False),
        ("example.org:1", False, False),
    ],
)
def test_who_can_connect_to_an_address(text: str, is_local: bool, is_wildcard: bool) -> None:
    address = parse_address(text)
    assert (address.is_local, address.is_wildcard) == (is_local, is_wildcard)


@pytest.mark.parametrize(
    "text,size_bytes",
    [
        ("0", 0),
        ("8192", 8192),
        ("512 KiB", 524288),
        ("512KiB", 524288),
        ("10 GiB", 10 << 30),
        ("2TiB", 2 << 40),
        ("7 B", 7),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "-1", "1.5 GiB", "10 GB", "10G", "1e3", "GiB", "1 GiB 2", "٣", "1_000", "9" * 30])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(st.integers(0, 1 << 60))
def test_a_size_that_is_written_can_be_read(size_bytes: int) -> None:
    """No size is rounded for looks."""
    assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize("text,mode", [("0640", 0o640), ("640", 0o640), ("0o644", 0o644), ("777", 0o777)])
def test_modes_are_octal_however_they_are_written(text: str, mode: int) -> None:
    assert parse_mode(text) == mode


@pytest.mark.parametrize("text", ["", "64", "0999", "u=rw", "06400", "-640"])
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(ValueError, match="is not a mode"):
        parse_mode(text)


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(ValueError, match="the path"):
        parse_path(text)


@pytest.mark.parametrize(
    "text,url",
    [
        ("http://h", "http://h"),
        ("https://h.example:8443/up/", "https://h.example:8443/up"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_base_urls(text: str, url: str) -> None:
    assert parse_base_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "//h",
        "ftp://h",
        "http://",
        "http:///x",
        "http://h:0",
        "http://h:99999",
        "http://h:x",
        "http://u@h",
        "http://u:p@h",
        "http://h?x",
        "http://h/#",
        "http://h/a b",
        "http://h/\x07",
        "http://h/ü",
        "http://[::1",
        "http://-h",
        "unix:/run/x",
    ],
)
def test_what_is_no_base_url(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_base_url(text)


@pytest.mark.parametrize("text", ["", "a b", "x" * 65, "ü", "a/b"])
def test_what_is_no_instance_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        parse_instance(text)


def test_a_unix_socket_is_no_address_for_other_machines() -> None:
    assert parse_tcp_address("[::1]:7") == TcpAddress("::1", 7)
    with pytest.raises(ValueError, match="another machine"):
        parse_tcp_address("unix:/run/x")


@pytest.mark.parametrize(
    "text,why", [("0123456789abcde", "can be guessed"), ("0123456789abcdef,", ""), ("0123456789 abcdef", "letters")]
)
def test_keys_of_a_fleet_cannot_be_guessed(text: str, why: str) -> None:
    if not why:
        assert [key.get_secret_value() for key in parse_peer_keys(text)] == ["0123456789abcdef"]
        return
    with pytest.raises(ValueError, match=why) as refused:
        parse_peer_keys(text)
    assert "0123456789" not in str(refused.value)


def test_origins_are_compared_as_browsers_write_them() -> None:
    origins = parse_origins("https://a.example:443, HTTP://B.example:8080/,http://[::1]")
    assert origins.allows("https://a.example")
    assert origins.allows("http://b.example:8080")
    assert origins.allows("http://[::1]")
    for other in (
        "http://a.example",
        "https://a.example:444",
        "https://a.example.evil",
        "null",
        "",
        "https://x@a.example",
    ):
        assert not origins.allows(other), other


def test_all_origins() -> None:
    assert parse_origins("all").allows("https://anything.example")
    assert parse_origins("all").allows("null")


@pytest.mark.parametrize("text", ["a.example", "https://a/b", "https://a?x", "all, https://a", "https://*.example"])
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_origins(text)


def test_trusted_proxies_are_networks_and_peers_of_a_socket() -> None:
    proxies = parse_trusted_proxies(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])
    for trusted in ("10.1.2.3", "192.0.2.7", "2001:db8::1", "::ffff:10.1.2.3", "2001:db8::1%eth0"):
        assert proxies.trusts(trusted), trusted
    for other in ("11.0.0.1", "192.0.2.8", "2001:db9::1", "", "unix", "nonsense"):
        assert not proxies.trusts(other), other
    assert parse_trusted_proxies("unix").trusts("")
    assert not parse_trusted_proxies("none").trusts("127.0.0.1")
    assert parse_trusted_proxies("10.0.0.0/8").networks == (ipaddress.ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", "all"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_trusted_proxies(text)


@pytest.mark.parametrize(
    "rules,host,port,allowed",
    [
        ("all", "anything", 1, True),
        ("none", "anything", 1, False),
        ("app.example", "app.example", 1, True),
        ("app.example", "APP.example.", 1, True),
        ("app.example", "sub.app.example", 1, False),
        ("*.example", "a.b.example", 1, True),
        ("*.example", "example", 1, False),
        ("*.example", "evilexample", 1, False),
        ("app.example:8080", "app.example", 8080, True),
        ("app.example:8080", "app.example", 80, False),
        ("10.0.0.0/8", "10.1.2.3", 1, True),
        ("10.0.0.0/8", "11.1.2.3", 1, False),
        ("10.0.0.0/8", "10.evil.example", 1, False),
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("127.0.0.1:80", "127.0.0.1", 81, False),
        ("::1", "::1", 1, True),
        ("[::1]:80", "0:0:0:0:0:0:0:1", 80, True),
        ("[::1]:80", "::1", 81, False),
    ],
)
def test_where_callbacks_may_go(rules: str, host: str, port: int, allowed: bool) -> None:
    hosts = parse_hosts(rules)
    assert hosts.allows(host, port) is allowed
    assert parse_hosts(str(hosts)).allows(host, port) is allowed, "what is written can be read"


@pytest.mark.parametrize("text", ["http://a", "a b", "*", "10.0.0.0/99", "a:b", "*.", "all, a"])
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|needs"):
        parse_hosts(text)


def test_tokens_are_a_set_in_order() -> None:
    assert [token.get_secret_value() for token in parse_tokens(" b , a,b")] == ["b", "a"]
    assert parse_tokens("none") == ()


@pytest.mark.parametrize("token", ["with blank", "with\nline", "ümlaut", "=", 'quo"te', "x" * 513])
def test_a_wrong_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="entry 2") as refused:
        parse_tokens(["good", token])
    assert token not in str(refused.value)
