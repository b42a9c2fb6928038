"""Who is alive, and whom to ask for what: soft state.

Nothing is proved by it; the volume decides. Losing it loses no byte.
"""
