"""The kpis stage: what the estate's figures say, built by dbt; here what they show and when they alarm."""
