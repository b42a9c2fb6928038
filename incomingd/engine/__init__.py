"""Runs the rules against storage and registry.

One :class:`~incomingd.engine.owned.OwnedUpload` for each upload in use is the
only place in the process that changes it; :class:`~incomingd.engine.engine.Engine`
finds, pulls and keeps them.
"""
