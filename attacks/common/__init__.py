"""What attacks share: losses and budgets."""
