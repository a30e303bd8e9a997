"""Turns YAML text into checked components: it keeps line numbers, checks types and resolves names."""
