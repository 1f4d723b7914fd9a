"""Customers: taste, behavioural clusters and predictions, one row per person."""
