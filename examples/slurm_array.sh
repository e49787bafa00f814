#!/usr/bin/env bash
# A study on a Slurm cluster: every task of an array does one share of the cohorts, and a last job finishes the run.
# Submit it from a checkout with its .venv, on a file system that all nodes see:
#
#   sbatch --array=1-8 examples/slurm_array.sh loss-vs-lr --inits 4096
#   sbatch --dependency=afterany:JOB examples/slurm_array.sh loss-vs-lr --inits 4096
#
# The first command prints JOB. What the array left undone, because a task was killed, the last job does itself. To do
# tasks 3 and 5 of eight again instead: SHARDS=8 sbatch --array=3,5 … with the same words. For GPUs, one to a task, add
# --gpus-per-task=1 before the file's name, to both. OUT and PYTHON name another place and another interpreter.
#SBATCH --job-name=lossscale
#SBATCH --cpus-per-task=2
#SBATCH --requeue
set -euo pipefail

study=${1:?usage: sbatch [--array=1-N] examples/slurm_array.sh STUDY [options of lossscale run]}
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/$study}

if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    part=(--shard "$SLURM_ARRAY_TASK_ID/${SHARDS:-$SLURM_ARRAY_TASK_MAX}")
else
    part=(--resume)
fi
exec "$python" -m lossscale run "$@" "${part[@]}" --out "$out"
