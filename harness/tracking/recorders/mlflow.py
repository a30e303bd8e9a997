"""MLflow, in the experiment "adversarial-harness" of the tracking server or folder WHERE, such as http://localhost:5000.

A suite that goes on after an interruption goes on in the same run of MLflow, which a tag finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.tracking.recorder import Recorder, required

WHERE = "a tracking URI or a folder"

EXPERIMENT = "adversarial-harness"

TAG = "adversarial_harness.results"
"""The tag whose value is the results directory."""


def recorder(where: str) -> Recorder:
    """A recorder for the tracking server, database or folder `where`."""
    mlflow = required("mlflow", "mlflow")
    return _MLflow(mlflow.MlflowClient(tracking_uri=where))


class _MLflow(Recorder):
    def __init__(self, client: Any) -> None:
        self._client, self._run = client, ""

    def begin(self, name: str, facts: Mapping[str, str]) -> None:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        results = facts["results"].replace("'", "")
        earlier = self._client.search_runs([experiment], f"tags.`{TAG}` = '{results}'", max_results=1)
        if earlier:
            self._run = earlier[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        run = self._client.create_run(experiment, run_name=name, tags={TAG: results})
        self._run = run.info.run_id
        for key, value in facts.items():
            self._client.log_param(self._run, key, value[:500])

    def record(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._run, name, value, step=step)

    def end(self, text: str) -> None:
        self._client.log_text(self._run, text, "table.md")
        self._client.set_terminated(self._run)
