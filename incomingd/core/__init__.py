"""The rules of the service, as plain values and functions.

Standard library only. Nothing in here waits, reads a clock, draws a random
number or writes a log: what time it is and what was drawn are arguments.
"""
