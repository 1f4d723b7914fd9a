"""A stand-in for Brevo's API v3, for the tests and for the demo: stateful, on a real port, and never a kind one.

It does what `docs/brevo.md` says is known of Brevo, and where Brevo's documents are silent or contradict each other
it takes the reading that hurts its client more. It sends nothing to anybody: what it accepts it remembers, and the
control API under `/standin/` hands that record out. Proofs read the record, never the client's own account.

`standin.py` is the whole behaviour, synchronous and without sockets: a request in, a reply out. `asgi.py` and
`server.py` put it on a port, `transport.py` under an httpx client in the same process. It knows nothing of the
product: no import of `crm_assets`, no table, no tenant.
"""
