"""Recommendations: runs and their items, kept and never appended to."""
