"""Everything is in pyproject.toml; this file is for tools that still look here."""

from setuptools import setup

setup()
