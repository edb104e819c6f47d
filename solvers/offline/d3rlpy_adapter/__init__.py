"""The adapter to d3rlpy (2.8; Seno & Imai 2022, JMLR 23:315), which adds action masks.

d3rlpy has no masks. Here every illegal action has the value `networks.ILLEGAL` in every Q function
and the log-probability `ILLEGAL` in every policy: it is never the best, adds nothing to a
log-sum-exp and has probability 0. The value is finite because d3rlpy multiplies the values of next
states by 0 where an episode terminated. Observations are the flat vectors of a log, or the
`StateFeatures` that an `OfflineBuffer` computed from them.

Only this package imports d3rlpy, because the import takes seconds (and, when it is called,
`solvers.networks.decision_transformer.causal_transformer`).
"""

import contextlib
import io
import logging

with contextlib.redirect_stderr(io.StringIO()):  # it imports the old gym, which prints a warning
    import d3rlpy  # noqa: F401
    import structlog

# d3rlpy logs the progress of every training to the standard output: keep errors only.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
