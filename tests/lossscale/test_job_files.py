"""The job files of examples/: what they say and the commands in their headers (`test_shards.py` runs what they run)."""

import os
import re
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
KUBERNETES = EXAMPLES / "kubernetes_job.yaml"
SLURM = EXAMPLES / "slurm_array.sh"

KUBECTL = """#!/usr/bin/env bash
# Stands in for kubectl: the job has no condition at first, and then those of the outcome.
echo "$1 $2" >> "$LOG"
if [[ $1 == get ]]; then
    [[ $2 == job/lossscale-shards ]]
    (( $(grep -c ^get "$LOG") < 3 )) || echo "$OUTCOME"
fi
"""


def typed_commands(path: Path) -> str:
    """What the header tells to type: the comment's lines that stand three blanks in."""
    header = path.read_text().partition("\napiVersion")[0]
    return "\n".join(re.findall(r"^#   (.*)$", header, re.MULTILINE)) + "\n"


@pytest.mark.parametrize("outcome", ["SuccessCriteriaMet Complete", "FailureTarget Failed"])
def test_the_commands_for_kubernetes_end_however_the_first_job_does(tmp_path: Path, outcome: str) -> None:
    for name, text in (("kubectl", KUBECTL), ("sleep", '#!/bin/sh\necho "sleep $1" >> "$LOG"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", typed_commands(KUBERNETES)],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "OUTCOME": outcome},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    get, sleep = "get job/lossscale-shards", "sleep 30"
    assert (tmp_path / "log").read_text().splitlines() == [
        "apply -f",
        *(get, sleep, get, sleep, get),
        "patch job/lossscale-finish",
    ]


def test_a_job_that_is_still_going_to_fail_is_waited_for(tmp_path: Path) -> None:
    """Kubernetes announces an outcome before the last pods have ended: that is no outcome yet."""
    condition = re.search(r"grep (-\S+) '([^']+)'", typed_commands(KUBERNETES))
    assert condition is not None
    for types, ended in (("FailureTarget", 1), ("SuccessCriteriaMet", 1), ("Suspended Complete", 0)):
        assert subprocess.run(["grep", *condition.groups()], input=types, text=True, check=False).returncode == ended


def test_the_kubernetes_file_is_two_jobs_with_a_pod_for_each_share() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which Ray brings: make test-scale")
    shares, finish = yaml.safe_load_all(KUBERNETES.read_text())
    assert [job["kind"] for job in (shares, finish)] == ["Job", "Job"] and finish["spec"]["suspend"] is True
    assert shares["spec"]["completionMode"] == "Indexed"
    pods = [job["spec"]["template"]["spec"] for job in (shares, finish)]
    names = [{item["name"]: item["value"] for item in pod["containers"][0]["env"]} for pod in pods]
    assert names[0] == {**names[1], "SHARDS": str(shares["spec"]["completions"])}
    assert pods[0]["volumes"] == pods[1]["volumes"]
    assert pods[0]["containers"][0]["volumeMounts"] == pods[1]["containers"][0]["volumeMounts"]
    assert names[0]["OUT"].startswith(pods[0]["containers"][0]["volumeMounts"][0]["mountPath"])


def test_the_slurm_file_is_a_shell_script() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    done = subprocess.run(["bash", str(SLURM)], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "usage: sbatch" in done.stderr
