#!/usr/bin/env bash
# Train under Slurm:  tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR [options of train.py]
# Set GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS to change the defaults.
# It submits a job that saves GRACE (120) seconds before its time limit or when it is
# preempted, and is queued again to continue. SBATCH_ARGS: its options (--time=1-0).
# The log is WORK_DIR/slurm-JOBID.out. In a job that you have (SLURM_JOB_ID), it runs.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
partition=$1 job=$2 config=$3 work_dir=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# Once more starts as --resume does: from nothing if there is no checkpoint yet.
# SRUN_ARGS and SBATCH_ARGS contain several words on purpose.
# shellcheck disable=SC2206
step=(srun -p "$partition" --job-name="$job" --gres=gpu:"$per_node"
    --ntasks="$gpus" --ntasks-per-node="$per_node"
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-}
    python -u "$(realpath "$(dirname "$0")")/train.py" "$config"
    --work-dir "$work_dir" --launcher slurm "$@")
[ -z "${SLURM_JOB_ID:-}" ] || exec "${step[@]}"
[[ " $* " == *" --resume"* ]] || step+=(--resume)
mkdir -p "$work_dir"
# shellcheck disable=SC2086
exec sbatch -p "$partition" --job-name="$job" --gres=gpu:"$per_node" \
    --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --requeue --signal=USR1@"${GRACE:-120}" \
    --open-mode=append --output="$work_dir/slurm-%j.out" ${SBATCH_ARGS:-} \
    --wrap="$(printf '%q ' "${step[@]}"); status=\$?
[ \$status != 75 ] || scontrol requeue \$SLURM_JOB_ID; exit \$status"
