"""Prefect's worker of processes, which leaves a run that is scheduled again until its process has ended.

    python -m flows.operations.prefect_worker worker start --pool gpu --type process

So it is where Retry comes at once, or to a run that works on while the server takes it for dead. Prefect's own (3.8.8)
ends then with a traceback, and with it all that it runs. Not here: what is closed before it starts
(`flows.operations.worker`).
"""

from __future__ import annotations

import warnings

from prefect.cli import app
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.workers.process import ProcessWorker

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it takes the place of Prefect's own, which has the same type

    class PatientWorker(ProcessWorker):
        """A worker that takes no run whose process it still has."""

        async def _submit_scheduled_flow_runs(
            self, flow_run_response: list[WorkerFlowRunResponse]
        ) -> list[FlowRun]:
            held = self.limiter.statistics().borrowers
            free = [one for one in flow_run_response if one.flow_run.id not in held]
            return await super()._submit_scheduled_flow_runs(free)


if __name__ == "__main__":
    app()
