"""The activation stage: campaigns planned into batches of messages, and tried against Brevo's client."""
