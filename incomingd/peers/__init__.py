"""The calling side of the peer protocol."""
