"""Certificates: what a suite can name under `certificates`."""
