"""Auxiliary-task learning in PyTorch Lightning."""
