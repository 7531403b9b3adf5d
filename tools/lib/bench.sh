# shellcheck shell=bash disable=SC2154 # variables that tools/bench sets
# Sourced by tools/bench after processes.sh: the measured programs, and one measurement. Uses $state, $bin,
# $out, $load_core, $port_of.

config=$project/tests/bench/config
declare -A port_of=() tls_port_of=() # by name of a program

# An instance is KIND or KIND-VARIANT: gateway, nginx, haproxy, envoy, forwarder; the variants are
#   10k   10,000 routes; without it 10 (and /svc)
#   idle  fresh, for many connections
#   small for few
#   bulk  buffers of 64 KiB (HAProxy): the best of 16, 64 and 256 KiB for large bodies
#   splice  large bodies by splice(2) (HAProxy), which beats any buffer if the length is known
#   two   two workers (gateway)
#   swap  fed by a control plane (gateway)
#   policies  one route for each policy, and one with all (gateway)

# write_routes COUNT: the same routes for all proxies, in $state/routes-COUNT.KIND (the gateway's: .gateway.yaml).
write_routes() {
  awk -v count="$1" -v base="$state/routes-$1" 'BEGIN {
    for (i = 0; i < count; i++) {
      prefix = "/api/v1/service-" i "/part-" i
      printf "location %s { proxy_pass http://svc; }\n", prefix > (base ".nginx")
      printf "%s svc\n", prefix > (base ".haproxy")
      printf "              - { match: { path_separated_prefix: %s }, route: { cluster: svc, timeout: 30s } }\n", prefix > (base ".envoy")
      printf "---\nkind: Route\nname: route-%d\nmatch: { path: { prefix: %s } }\nservice: svc\n", i, prefix > (base ".gateway.yaml")
    }
  }'
}

# fill FILE NAME=VALUE...: prints a file of $config with every @NAME@ replaced.
fill() {
  local file=$1 pair script=''
  shift
  for pair; do script+="s|@${pair%%=*}@|${pair#*=}|g;"; done
  sed "$script" "$config/$file"
}

# start_instance NAME: starts it on core 0 and waits until it forwards.
start_instance() {
  local name=$1 kind=${1%%-*} routes=$state/routes-10 connections=8192 workers=1 cores=0 file admin source user=''
  case $name in
    *-10k) routes=$state/routes-10000 ;;
    *-idle) connections=$((idle_connections * 6 / 5 + 512)) ;; # nginx closes idle ones if fewer than 1/16 are left
    *-small) connections=512 ;;
    *-two) workers=2 cores=0,1 ;;
    *-swap) [ "$(nproc)" -lt 2 ] || cores=0,1 ;; # a policy is compiled next to the worker, on any free core
  esac
  free_port 18200 > /dev/null
  port_of[$name]=$port
  file=$state/$name.conf
  [ "$kind" != envoy ] || file=$state/$name.yaml # it takes the format from the file name
  free_port 18240 > /dev/null
  tls_port_of[$name]=$port
  free_port 18300 > /dev/null
  admin=$port
  [ "$(id -u)" != 0 ] || user='user root;' # its worker reads this run's folder, which only the caller may read
  local values=(name="$name" state="$state" port="${port_of[$name]}" admin="$admin" upstream="${port_of[upstream]}" user="$user"
    tls_port="${tls_port_of[$name]}" grpc_upstream="${port_of[grpc_upstream]}"
    connections="$connections" descriptors="$(ulimit -n)" workers="$workers" routes="$routes.$kind")
  case $kind in
    nginx)
      fill nginx.conf "${values[@]}" > "$file"
      start "$name" taskset -c "$cores" nginx -p "$state" -c "$file"
      ;;
    haproxy)
      fill haproxy.cfg "${values[@]}" > "$file"
      case $name in
        *-bulk) sed -i 's/^  nbthread .*/&\n  tune.bufsize 65536/' "$file" ;;
        *-splice) sed -i 's/^  http-reuse .*/&\n  option splice-request\n  option splice-response/' "$file" ;;
      esac
      start "$name" taskset -c "$cores" haproxy -db -f "$file"
      ;;
    envoy)
      fill envoy.yaml "${values[@]}" | sed -e "/@routes_inline@/{r $routes.envoy" -e 'd;}' > "$file"
      start "$name" taskset -c "$cores" "${envoy[0]}" -c "$file" --concurrency 1 --disable-hot-restart --base-id "$((admin - 18300 + 7))" -l warn
      ;;
    gateway)
      if [ "$name" = gateway-policies ]; then
        fill policies.yaml "${values[@]}" upstream2="${port_of[upstream2]}" > "$state/$name-policy.yaml"
      else
        { fill policy.yaml "${values[@]}"; cat "$routes.gateway.yaml"; } > "$state/$name-policy.yaml"
      fi
      source="policy_files: [\"$state/$name-policy.yaml\"]"
      [ "$name" != gateway-swap ] || source="control_planes: [\"127.0.0.1:$stream_port\"]"
      fill gateway.yaml "${values[@]}" source="$source" > "$file"
      start "$name" taskset -c "$cores" "$bin/gateway-dataplane" --config "$file"
      ;;
    forwarder) start "$name" taskset -c "$cores" "$bin/bench-tcp_forward" "${port_of[$name]}" "${port_of[upstream]}" ;;
  esac
  ready "$name" "${port_of[$name]}"
  within 15 curl -sf -o /dev/null "http://127.0.0.1:${port_of[$name]}/svc/small" || die "$name does not respond: $(tail -n 3 "$state/log/$name.log")"
}

# startable NAME: whether this proxy starts and forwards here. Reports a failure once: a peer is then left out; a
# failure of the gateway ends the run.
declare -A startable_names=() # yes or no
startable() {
  local name=$1 log=$state/log/try-$1.log
  case $name in gateway* | forwarder) return 0 ;; esac
  if [ -z "${startable_names[$name]:-}" ]; then
    startable_names[$name]=yes
    # In a subshell, whose exit stops what it started.
    if ! (start_instance "$name") > "$log" 2>&1; then
      startable_names[$name]=no
      say "$name does not start, and is left out: $(tail -n 1 "$log")"
    fi
  fi
  [ "${startable_names[$name]}" = yes ]
}

# have NAME: starts it unless it runs already.
have() { alive "$1" || start_instance "$1"; }

# Logs of millions of requests are deleted after each measurement.
forget_logs() {
  local file
  for file in "$state"/log/haproxy*.log "$state"/log/*-access.log; do [ ! -e "$file" ] || : > "$file"; done
}

# pids NAME: the process and its children.
pids() {
  local pid=${pid_of[$1]}
  printf '%s ' "$pid" "$(< "/proc/$pid/task/$pid/children")"
}

# load NAME OPTION...: runs bench-load against it; its output is in $answer. load_tls is the same over TLS, load_http2
# with HTTP/2 (bench-load_http2).
load() { run_load bench-load "$1" "${port_of[$1]}" "${@:2}"; }
load_tls() { run_load bench-load "$1" "${tls_port_of[$1]}" --tls "$state/cert.pem" "${@:2}"; }
load_http2() { run_load bench-load_http2 "$1" "${tls_port_of[$1]}" --tls "$state/cert.pem" "${@:2}"; }
run_load() {
  local program=$1 name=$2 to=$3 pid
  shift 3
  for pid in $(pids "$name"); do set -- --watch "$pid" "$@"; done
  answer=$(taskset -c "$load_core" "$bin/$program" "${@:1:$#-1}" "$to" "${*: -1}") || die "no measurement of $name"
  forget_logs
}

# make_certificate: the one of all proxies, ECDSA P-256, for localhost; for a week, in the run's folder alone.
make_certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$state/key.pem" -out "$state/cert.pem" 2> "$state/log/openssl.log" ||
    die "no certificate: $(tail -n 1 "$state/log/openssl.log")"
  cat "$state/cert.pem" "$state/key.pem" > "$state/both.pem"
}

# field NAME [OBJECT]: prints a number of $answer.
field() {
  local text=$answer
  [ -z "${2:-}" ] || text=${text#*\""$2"\": }
  text=${text#*\""$1"\": }
  printf '%s' "${text%%[,\}]*}"
}

# sample ROW NAME ROUND COST [LATENCIES]: a line of samples.tsv: row, name, round, cost, requests/s, p50 us, p99 us,
# errors. Cost is an arithmetic expression for awk.
sample() {
  local cost
  cost=$(awk "BEGIN { printf \"%.3f\", $4 }")
  printf '%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$cost" "$(field requests_per_second)" "$(field p50 "${5:-latency_us}")" \
    "$(field p99 "${5:-latency_us}")" "$(field errors)" >> "$samples"
}

readonly mib=1048576 # bytes
# Headers as a browser sends them; with Host there are 20.
twenty_fields=()
while IFS= read -r line; do twenty_fields+=(--field "$line"); done << 'FIELDS'
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8
Accept-Language: en-GB,en;q=0.9,de;q=0.8
Accept-Encoding: gzip, deflate, br
Cookie: session=6f1c3a0b9d2e4f58a7b6c5d4e3f20191; theme=dark; consent=all; cart=3; lang=en-GB; ab=variant-b
Referer: https://shop.example.com/catalogue/books/science?page=7&sort=price
Authorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl
Cache-Control: no-cache
Pragma: no-cache
DNT: 1
Sec-Fetch-Dest: document
Sec-Fetch-Mode: navigate
Sec-Fetch-Site: same-origin
Sec-Ch-Ua: "Chromium";v="126", "Not.A/Brand";v="24"
Sec-Ch-Ua-Mobile: ?0
Sec-Ch-Ua-Platform: "Linux"
If-None-Match: "33a64df551425fcc55e4d42a148795d9f25f89d4"
X-Requested-With: XMLHttpRequest
Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
FIELDS

# measure ROW NAME ROUND SECONDS: one measurement of one proxy.
measure() {
  local row=$1 name=$2 round=$3 seconds=$4 routes=10
  case $row in
    small | workers2) load "$name" --seconds "$seconds" --field 'User-Agent: bench' /svc/small ;;
    conns1000) load "$name" --seconds "$seconds" --connections 1000 --field 'User-Agent: bench' /svc/small ;;
    fields20) load "$name" --seconds "$seconds" "${twenty_fields[@]}" /svc/small ;;
    routes10k)
      [[ $name != *-10k ]] || routes=10000
      load "$name" --seconds "$seconds" --field 'User-Agent: bench' --paths "$routes" '/api/v1/service-{n}/part-{n}/items/7'
      ;;
    p99)
      load "$name" --seconds "$seconds" --rate "$rate" --field 'User-Agent: bench' /svc/small
      sample "$row" "$name" "$round" "$(field p99 latency_us)"
      return
      ;;
    connect) load "$name" --seconds "$seconds" --close 1 --field 'User-Agent: bench' /svc/small ;;
    download) load "$name" --seconds "$seconds" --connections "$bulk_connections" /svc/1m ;;
    chunked-down) load "$name" --seconds "$seconds" --connections "$bulk_connections" /svc/1m-chunked ;;
    upload) load "$name" --seconds "$seconds" --connections "$bulk_connections" --body $((10 * mib)) /svc/upload ;;
    tls-small) load_tls "$name" --seconds "$seconds" --field 'User-Agent: bench' /svc/small ;;
    tls-handshake | tls-workers2) load_tls "$name" --seconds "$seconds" --close 1 --field 'User-Agent: bench' /svc/small ;;
    tls-resume) load_tls "$name" --seconds "$seconds" --close 1 --resume 1 --field 'User-Agent: bench' /svc/small ;;
    tls-download) load_tls "$name" --seconds "$seconds" --connections "$bulk_connections" /svc/1m ;;
    tls-upload) load_tls "$name" --seconds "$seconds" --connections "$bulk_connections" --body $((10 * mib)) /svc/upload ;;
    h2) load_http2 "$name" --seconds "$seconds" /svc/small ;;
    grpc) load_http2 "$name" --seconds "$seconds" --grpc 1 /bench.Echo/Call ;;
    chunked-up) load "$name" --seconds "$seconds" --connections "$bulk_connections" --body $((10 * mib)) --chunk 16384 /svc/upload ;;
    idle | tls-idle | h2-idle)
      # The memory of one connection: compared with the same program configured for few connections, since nginx and
      # HAProxy allocate for the maximum at start. Both have served some requests, so that one-time memory is allocated.
      local few=${name%-idle}-small rss run=load count=$idle_connections few_streams=()
      case $row in
        tls-idle) run=load_tls count=$tls_idle_connections ;;
        h2-idle) run=load_http2 count=$tls_idle_connections few_streams=(--streams 8) ;; # within the -small ones' connections
      esac
      start_instance "$few"
      "$run" "$few" --seconds 0.5 "${few_streams[@]}" /svc/small
      rss=$(field rss_bytes)
      stop "$few" 2 KILL || true
      start_instance "$name"
      "$run" "$name" --seconds 0.5 "${few_streams[@]}" /svc/small
      "$run" "$name" --connections "$count" --idle 2 /svc/small
      local open
      open=$(field connections)
      rss=$(($(field rss_bytes) - rss))
      answer="{\"errors\": $((count - open)), \"requests_per_second\": 0, \"p50\": 0, \"p99\": 0}"
      sample "$row" "$name" "$round" "$rss / $open"
      stop "$name" 2 KILL || true
      return
      ;;
  esac
  case $row in
    download | chunked-down | tls-download) sample "$row" "$name" "$round" "1e6 * $(field cpu_seconds) * $mib / $(field bytes_received)" ;;
    upload | chunked-up | tls-upload) sample "$row" "$name" "$round" "1e6 * $(field cpu_seconds) * $mib / $(field bytes_sent)" ;;
    *) sample "$row" "$name" "$round" "1e6 * $(field cpu_seconds) / $(field requests)" ;;
  esac
}

# find_rate NAME...: sets `rate` to the highest of a few rates, up to 20,000 requests/s, that all sustain here.
find_rate() {
  local name
  for rate in 20000 15000 12000 10000 8000 6000 4000 2000 1000; do
    for name; do
      load "$name" --seconds 0.5 --rate "$rate" --field 'User-Agent: bench' /svc/small
      # At least 99 % of the due requests were completed in time, and the queue did not grow.
      awk "BEGIN { exit !($(field requests_per_second) >= 0.98 * $rate && $(field unsent) == 0) }" || continue 2
    done
    return
  done
  say "  not all sustain even $rate requests/s: ignore this row"
}

# --- the cost of each policy ---

# The routes of config/policies.yaml; the first has no policy.
policy_routes=(bare limit two-limits breaker retry balance maglev jwt api-key access cors edit all)

# measure_policies ROUNDS: the same request on each route of one gateway.
measure_policies() {
  local name=gateway-policies round route
  local fields=(--field 'User-Agent: bench' --field 'X-User: 4711' --field 'X-API-Key: bench-key'
    --field 'Origin: https://shop.example.com' --field "Authorization: Bearer $(< "$config/token.txt")")
  free_port 18280 > /dev/null && port_of[upstream2]=$port
  start upstream2 taskset -c 1 "$bin/bench-upstream" "${port_of[upstream2]}"
  ready upstream2 "${port_of[upstream2]}"
  have "$name"
  for ((round = 0; round <= $1; round++)); do # round 0 is a warm-up
    for route in "${policy_routes[@]}"; do
      load "$name" --seconds "$seconds" "${fields[@]}" "/$route/small"
      sample policies "$route" "$round" "1e6 * $(field cpu_seconds) / $(field requests)"
    done
  done
  stop "$name" || true
  stop upstream2 || true
}

# --- a change of policy under load ---

readonly swap_path=/api/v1/service-77/part-77/items/7

ctl() { "${ctl_priority[@]}" taskset -c "$load_core" "$bin/gatewayctl" --server "127.0.0.1:$admin_port" --timeout 60s "$@"; }
ctl_priority=(env)

rss_mib() { awk '/^Rss:/ { printf "%.1f", $2 / 1024 }' "/proc/${pid_of[$1]}/smaps_rollup"; }

# start_swap: a control plane with two revisions, each of which changes all 10,000 routes of the other, and its data
# plane.
start_swap() {
  local change=$state/change.yaml
  local name
  for name in admin_port stream_port controlplane_metrics; do
    free_port 18280 > /dev/null
    printf -v "$name" %s "$port"
  done
  cat > "$state/controlplane.yaml" << END
consul: { address: "" }
control_plane:
  admin_listen: "127.0.0.1:$admin_port"
  stream_listen: "127.0.0.1:$stream_port"
  metrics_port: $controlplane_metrics
  database: "$state/gateway.db"
END
  start controlplane taskset -c "$load_core" "$bin/gateway-controlplane" --config "$state/controlplane.yaml"
  ready controlplane "$admin_port"
  fill policy.yaml upstream="${port_of[upstream]}" grpc_upstream="${port_of[grpc_upstream]}" > "$change"
  ctl apply -f "$change" > "$state/log/apply"
  ctl apply -f "$state/routes-10000.gateway.yaml" > "$state/log/apply"
  revisions=("$(current_revision)")
  sed 's/^service: svc$/&\ntimeout: 29s/' "$state/routes-10000.gateway.yaml" > "$change"
  ctl apply -f "$change" > "$state/log/apply"
  revisions+=("$(current_revision)")
  start_instance gateway-swap
  # Only the data plane is measured: from now on, control plane and gatewayctl get the remaining CPU time. On a busy
  # machine that may be nothing for minutes.
  [ "$(idle_percent)" -ge 80 ] || return 0
  local task
  for task in "/proc/${pid_of[controlplane]}/task"/*; do chrt --idle -p 0 "${task##*/}" > /dev/null 2>&1 || true; done
  ctl_priority=(chrt --idle 0)
}
# As a share of the time of all cores, over the next half second.
idle_percent() {
  { head -n 1 /proc/stat && sleep 0.5 && head -n 1 /proc/stat; } |
    awk '{ sum = 0; for (i = 2; i <= 9; i++) sum += $i; if (NR == 2) printf "%d", 100 * ($5 - idle) / (sum - all); idle = $5; all = sum }'
}
current_revision() { ctl rollout | grep -oE 'revision [0-9]+' | head -n 1 | cut -d ' ' -f 2; }

# change_policy: the other revision, with acknowledgement. Adds to `swaps` and `swaps_ms`; sets `took_ms`.
change_policy() {
  local began=${EPOCHREALTIME/[.,]/}
  ctl rollback "${revisions[$((swaps % 2))]}" --wait > "$state/log/rollback" 2>&1 || die "not applied: $(< "$state/log/rollback")"
  took_ms=$(((${EPOCHREALTIME/[.,]/} - began) / 1000))
  swaps=$((swaps + 1)) swaps_ms=$((swaps_ms + took_ms))
}

# measure_swaps ROUNDS: in each, at a fixed rate, four changes between the two revisions, with a pause around each as
# long as the last change took. Requests due between the command and the acknowledgement of the data plane count as
# `during`.
measure_swaps() {
  local name=gateway-swap pid round i swaps=0 swaps_ms=0 took_ms
  start_swap
  for swap_rate in 5000 4000 3000 2000 1000; do # a third of its capacity, so that other load is not measured
    load "$name" --seconds 0.5 --rate $((swap_rate * 3)) "$swap_path"
    awk "BEGIN { exit !($(field requests_per_second) >= 0.98 * 3 * $swap_rate) }" && break
  done
  say "swap at $swap_rate requests/s: $name"
  change_policy
  change_policy
  answer='{"requests_per_second": 0, "p50": 0, "p99": 0, "errors": 0}'
  sample swap-memory after-two 1 "$(rss_mib "$name")"
  for ((round = 1; round <= $1; round++)); do
    taskset -c "$load_core" "$bin/bench-load" --seconds 60 --rate "$swap_rate" "${port_of[$name]}" "$swap_path" > "$state/swap.json" &
    pid=$!
    sleep 0.5
    for ((i = 0; i < 4; i++)); do
      sleep "$(awk "BEGIN { print $took_ms / 2000 }")"
      kill -USR1 "$pid"
      change_policy
      kill -USR2 "$pid"
      sleep "$(awk "BEGIN { print $took_ms / 2000 }")"
    done
    kill "$pid"
    wait "$pid" || die 'no measurement of the swap'
    answer=$(< "$state/swap.json")
    sample swap without "$round" "$(field p99 unmarked_latency_us)" unmarked_latency_us
    sample swap during "$round" "$(field p99 marked_latency_us)" marked_latency_us
  done
  answer='{"requests_per_second": 0, "p50": 0, "p99": 0, "errors": 0}'
  sample swap-memory last 1 "$(rss_mib "$name")"
  say "  $swaps changes, $((swaps_ms / swaps)) ms each from gatewayctl to the acknowledgement"
  stop "$name" || true
  stop controlplane 1 || true
}
