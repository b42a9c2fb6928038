"""Protocols: headers and messages <-> commands and replies. Pure; imports core only."""
