"""Curated: who is who and what is what. The tables built on these two are dbt's."""
