"""Wires everything, starts it and stops it."""
