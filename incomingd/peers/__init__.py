"""The calling side of the peer protocol: what this instance asks other instances for."""
