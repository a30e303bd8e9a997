"""Trainers, one per file: what `harness train` minimises."""
