"""The reports stage: what the estate's people read."""
