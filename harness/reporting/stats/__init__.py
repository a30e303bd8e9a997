"""Accuracies, intervals and tests."""
