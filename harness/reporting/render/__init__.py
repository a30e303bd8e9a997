"""A table as plain strings (`layout`), and the renderers that write these strings in each format."""
