"""Dagster's side of the product, one folder per stage. Computation lives in `crm_assets.logic`."""
