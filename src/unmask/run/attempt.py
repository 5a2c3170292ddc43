"""The store of an agent of torchrun -> a part of it for this attempt alone.

The agent keeps one store for all attempts. Addresses of processes that have ended stay in it, under the names by which
those that were started again look for each other, and whoever reads before the new one is written waits for a dead
process. The number of the attempt does not tell them apart: an agent that joins late begins at 0.
"""

__all__ = ["of_this_attempt"]

import os
import time
from typing import Any

import torch.distributed as dist


def of_this_attempt(store: Any, rank: int, size: int, seconds: float) -> Any:
    """The store of an agent, and the place of this process -> a view of it that only processes of this attempt have.

    The first process chooses the prefix. Each other one asks for it under a name that was never used, so that no answer
    is an old one; old questions get answers that nobody reads. Raises RuntimeError after so many seconds.
    """
    own = os.urandom(8).hex()
    if rank:
        store.set(f"unmask/asks/{rank}", own)
        prefix = store.get(f"unmask/told/{own}").decode()
        store.set(f"unmask/knows/{prefix}/{rank}", "")
        return dist.PrefixStore(f"unmask/{prefix}", store)
    waiting, end = set(range(1, size)), time.monotonic() + seconds
    while waiting:
        for other in sorted(waiting):
            if store.check([f"unmask/asks/{other}"]):
                store.set(f"unmask/told/{store.get(f'unmask/asks/{other}').decode()}", own)
        waiting = {other for other in waiting if not store.check([f"unmask/knows/{own}/{other}"])}
        if time.monotonic() > end:
            raise RuntimeError(f"timed out waiting for process {min(waiting)}")
        time.sleep(0.02)
    return dist.PrefixStore(f"unmask/{own}", store)
