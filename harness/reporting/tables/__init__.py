"""What a report shows, as numbers: tables, curves, comparisons."""
