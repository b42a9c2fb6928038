"""``incomingctl``: what operators tell and ask a running daemon, over its admin API."""
