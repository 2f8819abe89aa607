#!/usr/bin/env bash
# A Slurm of one node, this machine, that lives in a folder: cluster.sh start|stop FOLDER
# As root; needs slurm-wlm and munge, and with ACCOUNTING=1 slurmdbd and mariadb-server. Clients find it by
# SLURM_CONF=FOLDER/slurm.conf. Nothing outside the folder is touched: own key, sockets, ports, logs.
set -euo pipefail
# stop ends what has this cluster's variable in its environment, and is not to be among that
[ -z "${SLURM_CONF:-}" ] || exec env -u SLURM_CONF bash "$0" "$@"
mkdir -p "$2"
cd "$2"
HERE=$PWD

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

wait_for() { # SECONDS COMMAND...: until the command succeeds
  local tries=$(($1 * 10))
  shift
  for _ in $(seq $tries); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  echo "gave up waiting for: $*; see $HERE/log" >&2
  return 1
}

start_database() { # for slurmdbd, on a socket and a port of its own
  mkdir -p db
  mariadb-install-db --no-defaults --user=root --datadir="$HERE/db" --auth-root-authentication-method=normal \
    --skip-test-db >log/mariadb.log 2>&1
  mariadbd --no-defaults --user=root --datadir="$HERE/db" --bind-address=127.0.0.1 --port="$1" \
    --socket="$HERE/db.sock" --pid-file="$HERE/mariadbd.pid" --innodb-buffer-pool-size=64M >>log/mariadb.log 2>&1 &
  wait_for 60 mariadb-admin --no-defaults -S "$HERE/db.sock" ping
  mariadb --no-defaults -S "$HERE/db.sock" -e \
    "create user slurm@'127.0.0.1' identified by 'slurm'; grant all on accounts.* to slurm@'127.0.0.1'"
}

write_slurmdbd() { # PORT DATABASE_PORT
  (umask 077; cat >slurmdbd.conf) <<X
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$1
AuthType=auth/munge
AuthInfo=socket=$HERE/munge.sock
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$2
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounts
PidFile=$HERE/slurmdbd.pid
LogFile=$HERE/log/slurmdbd.log
X
}

write_slurm() { # further lines of slurm.conf
  local host memory
  host=$(hostname -s)
  memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512))
  # jobs share CPUs, so that a test needs few; those of `urgent` take the node away from others
  cat >slurm.conf <<X
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/munge
AuthInfo=socket=$HERE/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$HERE/state
SlurmdSpoolDir=$HERE/spool
SlurmctldPidFile=$HERE/slurmctld.pid
SlurmdPidFile=$HERE/slurmd.pid
SlurmctldLogFile=$HERE/log/slurmctld.log
SlurmdLogFile=$HERE/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(env -u OMP_NUM_THREADS nproc) RealMemory=$memory State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=$host Default=YES State=UP OverSubscribe=FORCE:4 PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=$host State=UP PriorityTier=2 PreemptMode=OFF
$1
X
}

start() {
  export SLURM_CONF=$HERE/slurm.conf
  mkdir -p state spool log munge
  chmod 755 . && chmod 700 munge
  [ -f munge/key ] || (umask 077; head -c 1024 /dev/urandom >munge/key)
  munged --socket "$HERE/munge.sock" --key-file "$HERE/munge/key" --pid-file "$HERE/munged.pid" \
    --log-file "$HERE/munge/log" --seed-file "$HERE/munge/seed" --force
  if [ "${ACCOUNTING:-0}" = 1 ]; then
    local port database
    port=$(free_port) database=$(free_port)
    start_database "$database"
    write_slurmdbd "$port" "$database"
    # without AccountingStoragePass every question to slurmdbd hangs for half a minute
    write_slurm "AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$port
AccountingStoragePass=$HERE/munge.sock"
    slurmdbd
    wait_for 60 timeout 5 sacctmgr -n -i show cluster
    sacctmgr -i -Q add cluster test
  else
    write_slurm "AccountingStorageType=accounting_storage/none"
  fi
  slurmctld -c -i
  slurmd
  wait_for 60 sh -c 'sinfo -h -o %T | grep -q idle'
}

processes() { # daemons, jobs and waiting commands of this Slurm, by their environment
  grep -slaF "SLURM_CONF=$HERE/slurm.conf" /proc/[0-9]*/environ | cut -d/ -f3 || true
}

stop() {
  SLURM_CONF=$HERE/slurm.conf timeout 10 scancel -u root 2>/dev/null || true
  kill $(processes) 2>/dev/null || true
  for _ in $(seq 50); do [ -z "$(processes)" ] && return; sleep 0.1; done
  kill -9 $(processes) 2>/dev/null || true
}

"$1"
