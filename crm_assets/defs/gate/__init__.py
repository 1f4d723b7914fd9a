"""The gate stage: who may be written to, and whether anything may leave at all."""
