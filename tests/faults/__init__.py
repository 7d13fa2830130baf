"""The fault kit: a scriptable upstream that is the oracle, a TCP fault proxy, a killer, a load client, a reconciler.

Nothing here imports the gateway, so that what the kit counts cannot share a mistake with what it measures.

- `upstream.Upstream`, or `python -m tests.faults.upstream`: answers as vLLM does; `script` says how it misbehaves,
  `journal` is what it counted, `oracle_api` how another process asks and tells it.
- `proxy.FaultProxy`: latency, slices, freeze, resets, refusal on the way to any upstream, PostgreSQL or Redis.
- `killer`: `Killer`, `armed(point)`, `stop_for`, `died`.
- `load.calls` and `load.drive`, or `python -m tests.faults.load`: seeded traffic; `transcript` is what clients saw.
- `reconcile.reconcile`: ledger rows against the oracle and the transcripts.
"""
