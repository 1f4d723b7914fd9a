"""The audit stage: what is wrong with a run's messages, and with the data they come from."""
