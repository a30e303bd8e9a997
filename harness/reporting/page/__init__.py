"""The HTML page: one file, with every image before and after the attack."""
