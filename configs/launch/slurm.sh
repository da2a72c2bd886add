#!/bin/bash
# A training on a Slurm cluster, from the repository's folder: sbatch configs/launch/slurm.sh [OVERRIDE...]
#
# Change the numbers below to your cluster's; sbatch's options on the command line win over them. One task is one
# process, with one GPU. The repository, data/ and runs/ lie on a disk that all machines share, and `make setup` has run.
# Of a job that is preempted, or comes to its time limit, the same command goes on where the training stopped.

#SBATCH --job-name=asr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
#SBATCH --signal=B:USR1@300

set -uo pipefail

# Five minutes before the time limit, Slurm sends USR1 to this script: the job is queued again.
again() {
    echo "out of time: the job is queued again"
    scontrol requeue "$SLURM_JOB_ID"
}
trap again USR1

# Since Slurm 22.05, srun doesn't take --cpus-per-task from sbatch.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi

srun --kill-on-bad-exit=1 --wait=60 .venv/bin/python "${SCRIPT:-scripts/train.py}" "$@" &
training=$!
wait "$training"
status=$?
while kill -0 "$training" 2>/dev/null; do # USR1 has ended the first wait
    wait "$training"
    status=$?
done
exit "$status"
