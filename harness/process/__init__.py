"""The process that the harness runs in: signals, the terminal, and workarounds for other libraries."""
