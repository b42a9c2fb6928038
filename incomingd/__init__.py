"""Incoming!!: an upload service that stands beside web applications."""

__version__ = "1.0.0.dev0"
