"""Defenses known to be broken: a harness that finds one of them robust is broken itself."""
