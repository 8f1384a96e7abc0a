"""Callbacks that a config names; those of every run are added by the command line."""

from callbacks.progressive_stages import ProgressiveStages

__all__ = ["ProgressiveStages"]
