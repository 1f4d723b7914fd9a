"""Plain Python, one module per stage: no Dagster, no SQL, no clock, no environment, no unseeded chance."""
