"""The outcomes stage: what came back of what was sent, read from Brevo here and judged by dbt."""
