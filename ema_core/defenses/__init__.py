"""Defenses: ``base`` holds the hooks, every other file here is one defense. Importing them does not import torch."""
