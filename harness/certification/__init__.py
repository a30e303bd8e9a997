"""Certificates: how far an image can be moved, for certain, before a smoothed defense gives it another class.

smoothing     from counts of classes under noise to radii; without torch
smoothed      the base of defenses that add Gaussian noise first
certificate   the base of certificates, which count those classes
"""
