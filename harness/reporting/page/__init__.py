"""The HTML page: one file, every image before and after."""
