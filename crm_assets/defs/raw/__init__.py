"""Raw: every file's line in the ledger, and its rows as the text they were."""
