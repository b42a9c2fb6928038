"""The peer listener: the answering side of the peer protocol."""

from incomingd.peer_api.api import LISTENER_BODY_BYTES, PeerApi, PeerEngine
from incomingd.peer_api.handlers import routes

__all__ = ["LISTENER_BODY_BYTES", "PeerApi", "PeerEngine", "routes"]
