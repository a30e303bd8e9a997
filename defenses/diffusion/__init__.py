"""The diffusion toolbox: schedules, denoisers, the loss per class and its exact gradient, likelihood maximisation."""
