"""Crops on disk, how a batch is drawn from them, and what is done to it."""
