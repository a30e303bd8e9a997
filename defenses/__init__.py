"""Defenses, one per file, and the diffusion toolbox that several of them share."""
