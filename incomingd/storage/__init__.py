"""Volumes: places that hold the bytes and records of uploads."""
