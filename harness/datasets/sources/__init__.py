"""The datasets that a suite can name: one file each, with one class spelt like the file."""
