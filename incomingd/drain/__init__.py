"""Emptying an instance: telling the balancer, cutting, parking, inviting."""

from incomingd.drain.drain import Drain, DrainOptions, Progress

__all__ = ["Drain", "DrainOptions", "Progress"]
