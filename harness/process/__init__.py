"""What surrounds our code in its process: signals, the terminal, traps of other libraries."""
