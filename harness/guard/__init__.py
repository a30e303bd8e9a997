"""What keeps the code of others from harming the harness and one row of a table from harming the next."""
