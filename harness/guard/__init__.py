"""Protects the harness from code and files of others, and each row of a table from the rows before it."""
