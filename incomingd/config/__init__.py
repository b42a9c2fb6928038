"""The configuration of `incomingd`: keys, sources, checks, reload, and the reference that is made from them."""

from incomingd.config.changes import Change, Changes, changes, reloaded
from incomingd.config.commandline import CommandLine, parse
from incomingd.config.effective import render_effective
from incomingd.config.errors import ConfigError, Problem
from incomingd.config.listeners import Tls
from incomingd.config.loading import DEFAULT_FILE, Loaded, load
from incomingd.config.redis_url import RegistryUrl
from incomingd.config.settings import Settings
from incomingd.config.values import (
    Address,
    HostRule,
    Hosts,
    Network,
    Origins,
    TcpAddress,
    TrustedProxies,
    UnixAddress,
    parse_address,
)

__all__ = [
    "DEFAULT_FILE",
    "Address",
    "Change",
    "Changes",
    "CommandLine",
    "ConfigError",
    "HostRule",
    "Hosts",
    "Loaded",
    "Network",
    "Origins",
    "Problem",
    "RegistryUrl",
    "Settings",
    "TcpAddress",
    "Tls",
    "TrustedProxies",
    "UnixAddress",
    "changes",
    "load",
    "parse",
    "parse_address",
    "reloaded",
    "render_effective",
]
