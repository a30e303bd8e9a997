"""Network architectures, compatible with the published checkpoints by tensor name, shape and order."""
