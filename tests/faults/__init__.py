"""The fault kit: a scriptable upstream that is the oracle, a TCP fault proxy, a killer, a load client, a reconciler.

Nothing here imports the gateway, so that what the kit counts cannot share a mistake with what it measures.
"""
