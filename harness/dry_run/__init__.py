"""Checks of a suite before it is run: its cost, and a smoke run of all its parts."""
