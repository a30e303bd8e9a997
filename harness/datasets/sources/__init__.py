"""The datasets that a suite can name: one file each, with a class that is spelt like the file."""
