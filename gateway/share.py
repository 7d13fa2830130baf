"""A worker's share of the machine: the cores it keeps to, and as many open connections as the system allows.

Pinned workers keep their caches and do not chase each other over the cores. `auto` pins where a core is left for the
drainer; `weighbridge up`, which has stores and an engine on the same machine, turns it off.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Collection

from gateway.settings import Settings


def share_of(cores: Collection[int], index: int, workers: int) -> frozenset[int]:
    """The cores of one of several workers: neighbours, none of which is another worker's; all where there are too few."""
    ordered = sorted(cores)
    if len(ordered) < workers:
        return frozenset(ordered)
    return frozenset(ordered[index * len(ordered) // workers : (index + 1) * len(ordered) // workers])


def take_share(settings: Settings, index: int) -> None:
    """Called once at a worker's start."""
    # An open stream takes two descriptors, and shells hand down a soft limit of 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    cores = os.sched_getaffinity(0)
    if settings.pin == "yes" or (settings.pin == "auto" and len(cores) > settings.workers):
        os.sched_setaffinity(0, share_of(cores, index, settings.workers))
