from __future__ import annotations

import pytest

from incomingd.config.redis_url import MEMORY, Login, Target, Tls, parse, parse_registry_url


@pytest.mark.parametrize(
    "url, target",
    [
        ("redis://localhost", Target((("localhost", 6379),))),
        ("redis://localhost/", Target((("localhost", 6379),))),
        ("redis://10.0.0.1:7000/4", Target((("10.0.0.1", 7000),), database=4)),
        ("redis://[::1]:7000", Target((("::1", 7000),))),
        ("redis://:p%40ss@r", Target((("r", 6379),), login=Login(None, "p@ss"))),
        ("redis://me:a%2Fb%3Ac@r/1", Target((("r", 6379),), login=Login("me", "a/b:c"), database=1)),
        ("redis://r?prefix=blue", Target((("r", 6379),), prefix="blue")),
        ("rediss://r", Target((("r", 6379),), tls=Tls())),
        (
            "rediss://r?ca_file=/etc/ca.pem&cert_file=/c&key_file=/k",
            Target((("r", 6379),), tls=Tls("/etc/ca.pem", "/c", "/k")),
        ),
        (
            "redis+sentinel://me:pw@one,two:7000,[::1]:7001/uploads/2?sentinel_user=s&sentinel_password=t",
            Target(
                (("one", 26379), ("two", 7000), ("::1", 7001)),
                primary="uploads",
                database=2,
                login=Login("me", "pw"),
                sentinel_login=Login("s", "t"),
            ),
        ),
        ("rediss+sentinel://one/uploads", Target((("one", 26379),), primary="uploads", tls=Tls())),
        (
            "redis+cluster://me:pw@one,two:7000,[::1]:7001?prefix=blue",
            Target((("one", 6379), ("two", 7000), ("::1", 7001)), cluster=True, login=Login("me", "pw"), prefix="blue"),
        ),
        ("redis+cluster://one/0", Target((("one", 6379),), cluster=True)),
        ("rediss+cluster://one", Target((("one", 6379),), cluster=True, tls=Tls())),
    ],
)
def test_a_url_says_where_and_how(url: str, target: Target) -> None:
    assert parse(url) == target


@pytest.mark.parametrize(
    "url, sentence",
    [
        ("", "does not begin with"),
        ("localhost:6379", "does not begin with"),
        ("http://s3cret@r", "does not begin with"),
        ("redis://", "not host:port"),
        ("redis://s3cret@", "not host:port"),
        ("redis://:s3cret@r:0", "not host:port"),
        ("redis://:s3cret@r:99999", "not host:port"),
        ("redis://:s3/cret@r", "not host:port"),
        ("redis://:s3#cret@r", "write %23"),
        ("redis://[::1", "brackets"),
        ("redis://r/uploads", "database is a number"),
        ("redis://r/4096", "database is a number"),
        ("redis://r/1/2", "path is longer"),
        ("redis://one,two", "several hosts are Sentinels, .* or a Cluster"),
        ("rediss+standalone://one", "does not begin with"),
        ("redis+cluster://one/3", "a Cluster has no other database than 0"),
        ("redis+cluster://one/0/1", "path is longer"),
        ("redis+cluster://one?ca_file=/ca", "no option 'ca_file' with this scheme"),
        ("redis+cluster://one?sentinel_user=x", "no option 'sentinel_user' with this scheme"),
        ("redis+sentinel://one", "does not name the primary"),
        ("redis+sentinel://one/", "does not name the primary"),
        ("redis+sentinel://one/uploads/x", "database is a number"),
        ("redis://r?ca_file=/ca", "no option 'ca_file' with this scheme"),
        ("redis://r?sentinel_user=x", "no option 'sentinel_user' with this scheme"),
        ("redis://r?s3cret=x", "no option 's3cret'; there are: prefix"),
        ("rediss://r?ca_file=", "'ca_file' is empty"),
        ("redis://r?prefix=a&prefix=b", "'prefix' is there twice"),
        ("redis://r?prefix=a{b}", "a prefix is"),
        ("rediss://r?cert_file=/c", "go together"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_without_its_password(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        parse(url)
    assert "s3cret" not in str(refused.value) or "option" in str(refused.value)
    assert refused.value.__cause__ is None


def test_memory_is_no_redis() -> None:
    assert parse_registry_url(" memory: ") is MEMORY
    assert (MEMORY.target, str(MEMORY), MEMORY.secrets) == (None, "memory:", ())


@pytest.mark.parametrize(
    "url, shown, secrets",
    [
        ("redis://r", "redis://r", ()),
        ("redis://me@r", "redis://me@r", ()),
        ("redis://me:a%40b@r:7/0?prefix=x", "redis://me:***@r:7/0?prefix=x", ("a@b",)),
        ("redis+sentinel://one/p?sentinel%5Fpassword=c@d", "redis+sentinel://one/p?sentinel_password=***", ("c@d",)),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str, secrets: tuple[str, ...]) -> None:
    read = parse_registry_url(url)
    assert (str(read), repr(read), read.secrets) == (shown, f"RegistryUrl({shown})", secrets)
    assert read.url == url
    assert parse_registry_url(read) is read


def test_a_target_shows_no_password() -> None:
    target = parse("redis+sentinel://me:s3cret@one,two/uploads?sentinel_password=s3cret")
    assert "s3cret" not in f"{target} {target!r}"
    assert str(target) == "'uploads' of the Sentinels one:26379, two:26379"
    assert str(parse("redis://[::1]")) == "[::1]:6379"
    assert str(parse("redis+cluster://:s3cret@one,two:7000")) == "the Cluster of one:6379, two:7000"
