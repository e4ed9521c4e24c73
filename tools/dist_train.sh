#!/usr/bin/env bash
# Train on several GPUs:  tools/dist_train.sh CONFIG GPUS [options of train.py]
# Several machines: run it on each with NNODES (their number), NODE_RANK (0, 1, ...), and
# MASTER_ADDR and PORT of the machine of rank 0, which saves to the work folder.
# After SIGTERM or SIGUSR1 to any it saves, and all exit with 75: continue with --resume.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
config=$1 gpus=$2
shift 2
set -m  # in the background without this, Ctrl-C would be ignored
# torchrun exits with 1 whatever its processes do; they write their status here.
MMMETA_REQUEUE=$(mktemp)
export MMMETA_REQUEUE
python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@" &
pid=$!
# torchrun passes these on, and waits for 30 seconds.
trap 'kill -TERM $pid' TERM USR1
trap 'kill -INT $pid' INT
status=0
wait $pid || status=$?
while kill -0 $pid 2>/dev/null; do  # a signal ends `wait`, too
    status=0
    wait $pid || status=$?
done
[ ! -s "$MMMETA_REQUEUE" ] || status=$(<"$MMMETA_REQUEUE")
rm -f "$MMMETA_REQUEUE"
exit "$status"
