# Sourced after shell.sh: processes that end with the script that started them, and their ports.
#
# The script sets `state`, a folder of the run: the output of process NAME goes to $state/log/NAME.log. It calls
# stop_all from its EXIT trap. If the script is killed, the kernel ends its processes.

declare -A pid_of=() # by name, of running processes
started=()           # names, in order
state=''

# start NAME COMMAND...
start() {
  local name=$1
  shift
  mkdir -p "$state/log"
  setpriv --pdeathsig TERM "$@" >> "$state/log/$name.log" 2>&1 < /dev/null &
  pid_of[$name]=$!
  started+=("$name")
}

# alive NAME
alive() { [ -n "${pid_of[$1]:-}" ] && kill -0 "${pid_of[$1]}" 2> /dev/null; }

# stop NAME [SECONDS [SIGNAL]]: TERM, then KILL after SECONDS (default 10). Returns the process' exit code.
stop() {
  local name=$1 deadline=$((SECONDS + ${2:-10})) pid=${pid_of[$1]:-} rc=0
  [ -n "$pid" ] || return 0
  unset "pid_of[$name]"
  kill -"${3:-TERM}" "$pid" 2> /dev/null || true
  kill -CONT "$pid" 2> /dev/null || true # a stopped process ends only after SIGCONT
  while [ "${3:-}" != KILL ] && kill -0 "$pid" 2> /dev/null; do
    ((SECONDS <= deadline)) || kill -KILL "$pid" 2> /dev/null || true
    sleep 0.02
  done
  wait "$pid" 2> /dev/null || rc=$?
  return "$rc"
}

# stop_all: signals all at once, then waits for them.
stop_all() {
  local name
  for name in "${!pid_of[@]}"; do kill "${pid_of[$name]}" 2> /dev/null || true; done
  for name in "${!pid_of[@]}"; do stop "$name" 5 CONT || true; done
}

# listening PORT: whether anything on this machine listens on it.
listening() {
  local address
  printf -v address ':%04X [0-9A-F]+:0000 0A ' "$1"
  grep -qiE "$address" /proc/net/tcp /proc/net/tcp6 2> /dev/null
}

# free_port PREFERRED: sets `port` to PREFERRED or, if that is taken, to the next free one, with a message. Ports
# returned before count as taken.
declare -A given_ports=()
free_port() {
  port=$1
  while listening "$port" || [ -n "${given_ports[$port]:-}" ]; do
    port=$((port + 1))
    [ "$port" -lt 65536 ] || die "no free port above $1"
  done
  given_ports[$port]=1
  [ "$port" = "$1" ] || say "Port $1 is taken: using $port instead."
}

# within SECONDS COMMAND...: repeats COMMAND until it succeeds; its exit code when the time is over.
within() {
  local deadline=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
  shift
  until "$@"; do
    ((${EPOCHREALTIME/[.,]/} < deadline)) || return 1
    sleep 0.02
  done
}

# ready NAME PORT: waits until NAME listens on PORT; if it ends instead, or takes over 15 s, prints the reason and
# exits.
ready() {
  local deadline=$((SECONDS + 15))
  until listening "$2"; do
    if ! alive "$1" || ((SECONDS > deadline)); then
      tail -n 20 "$state/log/$1.log" >&2
      die "$1 did not start to listen on port $2; its log is above"
    fi
    sleep 0.02
  done
}
