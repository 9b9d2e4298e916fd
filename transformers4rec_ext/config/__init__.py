"""Configurations of transformers."""
