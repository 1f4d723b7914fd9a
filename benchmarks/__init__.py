"""Programs that make data for, and measure, the pipeline; nothing under `crm_assets` imports this package."""
