# Sourced by the scripts in tools/: the project's folder, messages, and steps whose output is shown only on failure.
# Needs only bash and coreutils, since it runs before anything is installed.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=$project/.cache # downloads, logs and files of runs; safe to delete
PATH=$PATH:/usr/sbin:/sbin # where Debian puts daemons, also for ordinary users

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# step TEXT LOG COMMAND...: runs COMMAND with its output in LOG. Shows TEXT and the time taken; while it runs, ninja's
# progress (on a terminal each second, otherwise each minute). On failure shows the end of the errors in LOG.
# Returns the exit code of COMMAND.
step() {
  local text=$1 log=$2 rc=0 began=$SECONDS shown=0 progress child
  shift 2
  mkdir -p "${log%/*}"
  set -m # a process group, so that its children can be ended too
  "$@" > "$log" 2>&1 < /dev/null & child=$!
  set +m
  step_child=$child
  while kill -0 "$child" 2> /dev/null; do
    if ((SECONDS - began >= 2)); then
      progress=$(tail -c 2000 "$log" 2> /dev/null | grep -o '^\[[0-9]*/[0-9]*\]' | tail -n 1) || progress=''
      if [ -t 1 ]; then
        printf '\r\033[K%s ... %d s %s' "$text" $((SECONDS - began)) "$progress"
      elif ((SECONDS - began >= shown + 60)); then
        shown=$((SECONDS - began))
        say "$text ... $shown s $progress"
      fi
    fi
    sleep 0.2
  done
  wait "$child" || rc=$?
  step_child=''
  [ ! -t 1 ] || printf '\r\033[K'
  if [ "$rc" = 0 ]; then
    ((SECONDS - began < 2)) || say "$text: $((SECONDS - began)) s"
  else
    say "$text: failed after $((SECONDS - began)) s, exit code $rc. The end of ${log#"$project"/}:"
    grep -vE '^\[[0-9]+/[0-9]+\] (Building|Linking|Generating|Running) ' "$log" | tail -n 60
  fi
  return "$rc"
}

# For traps: ends a running step with all its processes.
end_step() {
  [ -z "${step_child:-}" ] || kill -- "-$step_child" 2> /dev/null || true
}
trap 'end_step; exit 130' INT
trap 'end_step; exit 143' TERM HUP
