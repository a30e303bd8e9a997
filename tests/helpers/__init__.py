"""What tests of several packages share: fakes, small models, and programs that they run."""
