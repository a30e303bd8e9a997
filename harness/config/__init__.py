"""From YAML text to checked components: lines, types, names."""
