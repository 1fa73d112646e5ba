"""The model card of a checkpoint: what it is, what was measured, what it must not be used for."""
