"""The callback to the web app: kept on trying, over hours and restarts."""

from incomingd.handover.handover import Handover, HandoverOptions

__all__ = ["Handover", "HandoverOptions"]
