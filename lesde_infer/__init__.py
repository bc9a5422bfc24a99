"""Infer local elasticity from recordings of neural network training."""
