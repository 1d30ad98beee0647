#!/bin/bash
# A Slurm of one node on this machine, for as long as the test lasts: four runs, two of which are stopped in the middle of their
# training and requeued, must end as if nothing had happened. See README.md.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d /tmp/slurm-test.XXXXXX)
export SLURM_CONF=$root/slurm.conf HARNESS_DATA=$root/data XDG_CACHE_HOME=$root/cache PYTHONPATH=$here/../..${PYTHONPATH:+:$PYTHONPATH}
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1
results=$root/results
say() { echo "$(date +%T) $*"; }

stop() {
    code=$?
    if [ $code -ne 0 ]; then
        tail -n 30 "$root"/*.log "$results"/.study/slurm/*.out "$results"/.study/slurm/*.err 2>/dev/null || true
    fi
    scancel --user="$(id -un)" 2>/dev/null || true
    sleep 1
    for name in slurmd slurmctld munged; do
        [ -f "$root/$name.pid" ] && kill "$(cat "$root/$name.pid")" 2>/dev/null || true
    done
    sleep 2
    rm -rf "$root"
    say "torn down"
    exit $code
}

# --- the cluster -------------------------------------------------------------------------------------------------------

for command in munged slurmctld slurmd; do
    PATH=$PATH:/usr/sbin command -v $command >/dev/null || { echo "no $command: apt-get install slurm-wlm munge" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "slurmd has to be root" >&2; exit 2; }
export PATH=$PATH:/usr/sbin
trap stop EXIT
node=$(hostname -s)
ports=($(python - <<'EOF'
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in held))
EOF
))

mkdir -m 755 "$root/state" "$root/spool"
chmod 755 "$root"
dd if=/dev/urandom of="$root/munge.key" bs=1024 count=1 status=none
chmod 400 "$root/munge.key"
munged --force --key-file="$root/munge.key" --socket="$root/munge.socket" --pid-file="$root/munged.pid" \
    --log-file="$root/munged.log" --seed-file="$root/munge.seed"

# Nothing of it needs systemd or cgroups. A requeued job may start as soon as its old credential has expired.
cat >"$SLURM_CONF" <<EOF
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket=$root/munge.socket,cred_expire=10
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
NodeName=$node NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=$node Default=YES MaxTime=INFINITE State=UP
EOF
slurmctld
slurmd
for _ in $(seq 30); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && break
    sleep 1
done
say "$(sinfo --version), node $node is $(sinfo --noheader --format=%T)"

# --- the runs ----------------------------------------------------------------------------------------------------------

sweep() {
    python -m harness sweep --model cnn,kmer --task QKI --seed 0..1 --epochs 50 --patience 50 --device cpu --quiet "$@"
}
cat >"$root/compare.py" <<'EOF'
"""Every record of one folder equals that of the other, and as many as were stopped were resumed."""
import sys
from pathlib import Path

from harness.evidence.records import read_all

ours, others = ({record.folder: record for record in read_all(Path(folder))} for folder in sys.argv[1:3])
assert len(ours) == 4 and ours.keys() == others.keys(), sorted(map(str, ours.keys() ^ others.keys()))
resumed = 0
for folder, record in ours.items():
    assert record.finished and others[folder].finished, record.error
    assert record.metrics == others[folder].metrics, folder
    files = [Path(results, folder, "predictions.csv") for results in sys.argv[1:3]]
    assert files[0].read_bytes() == files[1].read_bytes(), f"{files[0]} and {files[1]} differ"
    again = record.timing.get("resumed")
    resumed += bool(again)
    print(f"{folder}: log_loss {record.metrics['log_loss']:.4f}, same as locally" + (f"; resumed after epoch {again}" if again else ""))
assert resumed == 2, f"{resumed} runs were resumed, not 2"
left = [*Path(sys.argv[1]).glob(".study/claims/*"), *Path(sys.argv[1]).glob(".study/states/*")]
assert not left, left
EOF

wait_for() { # a command, until it succeeds, for five minutes
    for _ in $(seq 300); do
        "$@" && return
        sleep 1
    done
    echo "waited in vain for: $*" >&2
    return 1
}
saved() { [ "$(ls "$results"/.study/states 2>/dev/null | grep -c '^QKI-sample.cnn.*safetensors$')" -ge "$1" ]; }
over() { [ -z "$(squeue --noheader)" ]; }

sweep --on slurm --slurm "--time=10 -c1 --oversubscribe" --jobs 2 --results "$results" | tee "$root/submitted"
ids=($(grep -o '[0-9]*_[0-9]*' "$root/submitted"))
wait_for saved 2
say "both trainings have a saved state"
squeue --format="%i %T %r"
scontrol requeue "${ids[0]}"
say "scontrol requeue ${ids[0]}"
scancel --signal=TERM "${ids[1]}"
say "scancel --signal=TERM ${ids[1]}"
sleep 3
squeue --format="%i %T %r"
wait_for over
say "the queue is empty"
python -m harness status "$results"
for log in "$results"/.study/slurm/*_log.out; do
    echo "--- ${log##*/}"
    grep -v -e ' epoch [0-9]*:' -e submitit "$log" || true
done
say "the same runs in one process, without Slurm"
sweep --results "$root/local"
python "$root/compare.py" "$results" "$root/local"
say "all records are there, and equal those of a local run"
