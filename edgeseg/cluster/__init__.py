"""The same graph and the same measurements on many machines, by Ray: ``--ray ADDRESS``. Needed for nothing else."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeseg.cluster.driver import Cluster


def connect(address: str | None) -> AbstractContextManager[Cluster | None]:
    """The cluster at ``address``, else at ``RAY_ADDRESS``; None where neither says one.

    Raises:
        EdgesegError: see ``Cluster``.
    """
    address = address or os.environ.get("RAY_ADDRESS", "").strip()
    if not address:
        return nullcontext()
    from edgeseg.cluster.driver import Cluster

    return Cluster(address)
