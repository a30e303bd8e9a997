"""The contents of a report as numbers: tables, curves, comparisons."""
