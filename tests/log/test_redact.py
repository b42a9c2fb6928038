"""No secret comes out of the log, wherever it hides, and of clients' addresses only what the operator wants."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from incomingd import log
from incomingd.log import events
from incomingd.log.redact import TEXT_CHARS_MAX, Redactor, is_secret_name
from tests.log.conftest import Configure, LogSettings

# Long and odd enough not to occur by chance in anything else that is logged.
SECRETS = st.from_regex(r"zq[A-Za-z0-9]{10,30}", fullmatch=True)

SECRET_NAMES = [
    "token",
    "secret",
    "authorization",
    "password",
    "key",
    "backend_tokens",
    "api_key",
    "apiKey",
    "X-Incoming-Secret",
    "Idempotency-Key",
    "Set-Cookie",
    "client_secret",
    "passphrase",
    "webhook-signature",
    "PRIVATE_KEY",
    "credentials",
]

# How a secret may stand in a text.
EMBEDDED: list[Callable[[str], str]] = [
    lambda secret: f"whsec_{secret}",
    lambda secret: f"whsec_{secret}+/=",
    lambda secret: f"Bearer {secret}",
    lambda secret: f"bearer  {secret}",
    lambda secret: f"Basic {secret}==",
    lambda secret: f"GET /file?token={secret}&x=1",
    lambda secret: f"GET /file?x=1&download_token={secret}",
    lambda secret: f"secret={secret}",
    lambda secret: f"Secret(secret='{secret}')",
    lambda secret: f"Authorization: {secret}",
    lambda secret: f"authorization: Custom a={secret}, b={secret}",
    lambda secret: f"X-Incoming-Secret: {secret}\r\nHost: h",
    lambda secret: f"Cookie: a={secret}; b={secret}",
    lambda secret: json.dumps({"secret": secret, "n": 1}),
    lambda secret: json.dumps({"secret": f'a"{secret}'}),
    lambda secret: json.dumps(json.dumps({"secret": f'a"{secret}'})),
    lambda secret: repr(json.dumps({"a": {"backend_token": f"it's a\"{secret}"}})),
    lambda secret: repr({"password": secret}),
    lambda secret: repr({"token": f"it's {secret}"}),
    lambda secret: f"password: two words {secret}",
    lambda secret: f"https://user:{secret}@host/x",
    lambda secret: f"redis://:{secret}@host:1/0",
    lambda secret: quote(f"Bearer {secret}"),
    lambda secret: quote(f"token={secret}"),
    lambda secret: f"/x?to={quote(f'/file?token={secret}')}",
    lambda secret: f"{'a' * 200}token={secret}",
]

# Where in a value it may stand.
NESTED: list[Callable[[object], object]] = [
    lambda value: value,
    lambda value: [value],
    lambda value: (1, value),
    lambda value: {"inner": value},
    lambda value: {"inner": [{"more": (value,)}]},
    ValueError,
    lambda value: str(value).encode(),
    lambda value: frozenset([str(value)]),
    lambda value: {str(value): 1},
    lambda value: "x" * (TEXT_CHARS_MAX - 20) + str(value),
]

_silent = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


@given(
    secret=SECRETS,
    name=st.sampled_from(SECRET_NAMES),
    depth=st.integers(0, 4),
    form=st.sampled_from(["json", "console"]),
)
@_silent
def test_the_value_of_a_field_that_smells_of_a_secret_never_comes_out(
    configure: Configure, secret: str, name: str, depth: int, form: str
) -> None:
    """However deep the field lies, and whatever kind of value it has."""
    logged = configure(LogSettings(format=form))
    for value in (secret, [secret], {"inner": secret}, secret.encode(), ValueError(secret), (1, secret)):
        field: object = {name: value}
        for _ in range(depth):
            field = [field]
        log.get_logger().info(events.CONFIG_RELOADED, applied=field, needs_restart=[(name, value)], **{name: value})
    text = logged.text
    assert secret not in text
    assert text.count("***") >= 12
    log.shutdown()


@given(
    secret=SECRETS,
    embed=st.sampled_from(EMBEDDED),
    nest=st.sampled_from(NESTED),
    before=st.text(max_size=10),
    form=st.sampled_from(["json", "console"]),
)
@_silent
def test_a_secret_inside_a_text_never_comes_out(
    configure: Configure,
    secret: str,
    embed: Callable[[str], str],
    nest: Callable[[object], object],
    before: str,
    form: str,
) -> None:
    logged = configure(LogSettings(format=form))
    text = f"{before} {embed(secret)}"
    log.get_logger().info(events.CONFIG_RELOADED, applied=nest(text), config_file=nest(text))
    log.get_logger().info(events.APPEND_ENDED, detail=text, address=text)
    log.get_logger().info(text)
    try:
        int(text)
    except ValueError as error:
        log.get_logger().error(events.REQUEST_FAILED, exc_info=error)
    assert secret not in logged.text
    log.shutdown()


@given(secret=SECRETS, embed=st.sampled_from(EMBEDDED))
@_silent
def test_a_secret_that_a_library_logs_never_comes_out(
    configure: Configure, caplog: pytest.LogCaptureFixture, secret: str, embed: Callable[[str], str]
) -> None:
    logged = configure()
    logging.getLogger("tornado.application").error("Uncaught exception %s", embed(secret))
    logging.getLogger("tornado.general").info("Malformed HTTP message from %s: %s", "192.0.2.1", embed(secret))
    text = logged.text
    assert secret not in text
    assert len(text.splitlines()) == 2
    log.shutdown()


@given(secret=st.text(min_size=6, max_size=40).filter(str.strip), filler=st.integers(0, 4000))
@example(secret="…\x00\n…\"'\\", filler=2040)
@_silent
def test_a_secret_that_is_known_is_masked_wherever_it_occurs(configure: Configure, secret: str, filler: int) -> None:
    """The tokens of the configuration: also where a text is cut in the middle of one."""
    cleaned = Redactor("full", [secret]).text("." * filler + secret + "." * 4000)
    start = "." * filler + secret[: len(secret) // 2 + 1]
    assert secret not in cleaned
    assert not cleaned.startswith(start) or set(secret[: len(secret) // 2 + 1]) == {"."}


def test_no_half_of_a_known_secret_is_left_where_a_text_is_cut() -> None:
    """Masking makes a text shorter, so that what stood behind the cut can move before it."""
    secret = "0123456789" * 4
    for filler in range(TEXT_CHARS_MAX, TEXT_CHARS_MAX + 2_000, 15):
        cleaned = Redactor("full", [secret]).text(f"token={'x' * filler} {secret} {'.' * 9_000}")
        assert "0123" not in cleaned, filler


def test_known_secrets_are_those_that_configure_was_given(configure: Configure) -> None:
    logged = configure(hidden=["hush-hush", "short"])
    log.get_logger().info(events.UPLOAD_LOST, detail="a hush-hush and a shortcut")
    assert logged.events[0]["detail"] == "a *** and a shortcut", "what is shorter than six would blacken words"


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_that_smell_of_a_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "upload_id",
        "detail",
        "monkey",
        "keyboard",
        "tokenizer",
        "part",
        "webhook_id",
        "setting",
        "trace_id",
        "secretary",
        "duration_s",
    ],
)
def test_names_that_do_not(name: str) -> None:
    assert not is_secret_name(name)


def test_no_field_of_the_catalogue_is_masked_by_its_name() -> None:
    """Else what an event says would never be seen."""
    assert not [field for event in events.CATALOGUE.values() for field in event.fields if is_secret_name(field)]


def test_what_is_no_secret_stays(configure: Configure) -> None:
    logged = configure()
    detail = "there is no key public.adress; backend.tokens is wrong: entry 1; at 12:22:31 of /incoming/1.0/uploads?x=1"
    log.get_logger().info(events.APPEND_ENDED, detail=detail, upload_id="a" * 63, bytes=2**40)
    (event,) = logged.events
    assert (event["detail"], event["upload_id"], event["bytes"]) == (detail, "a" * 63, 2**40)


@pytest.mark.parametrize(
    "unit", ["a.b-", "://a", "key", '"', "token=", ":1", "\\", 'key="\\', "Bearer ", "1.2.", "secret:"]
)
def test_looking_for_secrets_takes_linear_time(unit: str) -> None:
    """Whatever a client sends: for 32 times the text about 32 times the time; were it quadratic, 1024 times."""
    redactor = Redactor("masked", ["hush-hush"])

    def best_of_three_s(text: str) -> float:
        times = []
        for _ in range(3):
            before = time.process_time()
            redactor.free_text(text, chars_max=len(text))
            times.append(time.process_time() - before)
        return min(times)

    text = "key=:" + unit * (4_096 // len(unit))
    assert best_of_three_s(text * 32) < 200 * best_of_three_s(text)


# ------------------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    "address,masked",
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("192.0.2.77:5", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("[2001:db8:1:2::3]:443", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("unix", "unix"),
        ("", ""),
        ("host.example", "***"),
        (None, None),
    ],
)
def test_the_address_of_a_client(address: str | None, masked: str | None) -> None:
    assert Redactor("full").clean({"address": address}) == {"address": address}
    assert Redactor("masked").clean({"address": address}) == {"address": masked}
    assert Redactor("none").clean({"address": address}) == {}


@given(
    address=st.ip_addresses().map(str).filter(lambda text: len(text) > 6),
    around=st.sampled_from(["from {}: bad", "('{}', 5)", "peer={}", "{}", "{}, x", "[{}]:80", "{}\nx"]),
    client_address=st.sampled_from(["masked", "none"]),
)
@_silent
def test_an_address_in_what_a_library_wrote_is_masked_too(
    configure: Configure, caplog: pytest.LogCaptureFixture, address: str, around: str, client_address: str
) -> None:
    logged = configure(LogSettings(client_address=client_address))
    text = around.format(address)
    logging.getLogger("tornado.general").warning("%s", text)
    log.get_logger().info(events.APPEND_ENDED, detail=text, address=address)
    try:
        int(text)
    except ValueError as error:
        log.get_logger().error(events.REQUEST_FAILED, exc_info=error)
    said = [value for event in logged.events for name, value in event.items() if name != "ts"]
    network = Redactor("masked").clean({"address": address})["address"]
    assert not [value for value in said if address in str(value).replace(str(network), "")]
    log.shutdown()


def test_text_that_only_looks_like_an_address_stays() -> None:
    for text in ("12:22:31", "1.2.3.4.5", "v1.2.3", "deadbeef", "999.1.1.1", "std::vector", "a:b", "dead:beef::xyz"):
        assert Redactor("none").free_text(f"x {text} y") == f"x {text} y"
