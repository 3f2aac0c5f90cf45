"""Where and when: Prefect flows, Dask, and the command line over the plain packages.

Importing it tells Prefect and MLflow to send nothing to anyone, here and in every process started from here; and Arrow
to give memory back to the system, of which its own pool keeps some 40 MB of what each thread needed at most. What the
environment says already, stays.
"""

import os

for _name, _value in {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}.items():
    os.environ.setdefault(_name, _value)
