"""Trying a suite before it is run: what it costs, and whether every path works."""
