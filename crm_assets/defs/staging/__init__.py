"""Staging: what SQL cannot decide alone, e-mail addresses and phones. The rest of the stage is dbt's."""
