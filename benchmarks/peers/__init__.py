"""Servers of others, as their documentation shows them."""
