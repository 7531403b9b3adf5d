# Sourced by tools/quickstart: the tour of README.md, with every claim checked by real requests. Uses what quickstart
# set up: $dp1, $dp2 (host:port of the data planes), $dp1_tls, $dp2_tls (their ports with TLS), $admin_port, $orders2, $next, $consul_address (empty: no Consul), ctl, the names
# of processes.

tour_failed=0
tour_count=0

# claim TEXT FUNCTION [ARGUMENTS]: FUNCTION writes its findings to `saw` and returns whether TEXT holds.
claim() {
  local text=$1
  shift
  saw=''
  tour_count=$((tour_count + 1))
  if "$@"; then
    printf '  ok      %s%s\n' "$text" "${saw:+ ($saw)}"
  else
    tour_failed=$((tour_failed + 1))
    printf '  DIFFERS %s: %s\n' "$text" "${saw:-no details}"
  fi
}

# status URL [CURL ARGUMENTS]: the status of the response; 000 without one.
status() { curl -s -o /dev/null --max-time 10 -w '%{http_code}' "$@" || true; }

# instances N URL: which instances responded to N requests below URL, as "10 orders-1, 10 orders-2". All requests have
# different paths, since each path has its own limit.
instances() {
  curl -s -o /dev/null --max-time 20 -w '%{http_code} %header{x-instance}\n' "$2/${EPOCHREALTIME/[.,]/}-[1-$1]" |
    awk '{ n[$1 == 200 ? $2 : "status " $1]++ } END { for (i in n) print n[i], i }' | sort -k2 | paste -sd, | sed 's/,/, /g'
}

# Load on both data planes, 100 requests a second each, until stop_load; report_load says how many requests failed.
load_pids=()
start_load() {
  local dp
  load=$state/load
  rm -f "$load".*
  for dp in "$dp1" "$dp2"; do
    stdbuf -oL curl -s -o /dev/null --rate 100/s --max-time 30 -w '%{http_code} %{errormsg}\n' \
      "http://$dp/api/v1/orders/load-[1-100000]" > "$load.${dp##*:}" &
    load_pids+=($!)
  done
}
stop_load() {
  local pid
  for pid in "${load_pids[@]}"; do kill "$pid" 2> /dev/null || true; done
  for pid in "${load_pids[@]}"; do wait "$pid" 2> /dev/null || true; done
  load_pids=()
}
report_load() {
  local total bad
  stop_load
  total=$(cat "$load".* | wc -l)
  bad=$(cat "$load".* | grep -cv '^200 ' || true)
  saw="$((total - bad)) of $total requests were answered 200"
  [ "$bad" = 0 ] || saw+="; others: $(cat "$load".* | grep -v '^200 ' | sort | uniq -c | head -n 3 | paste -sd ';')"
  [ "$bad" = 0 ] && [ "$total" -ge "$1" ]
}

# has_fields TEXT FIELD...: whether a JSON text has all of them.
has_fields() {
  local text=$1 field missing=''
  shift
  for field; do [[ $text == *"\"$field\":"* ]] || missing+=" $field"; done
  [ -z "$missing" ] || saw="missing:$missing in $text"
  [ -z "$missing" ]
}

balanced() {
  saw=$(instances 40 "http://$dp1/api/v1/orders")
  # Evenly over the whole process: within the number of its workers (2). Few go to orders-next: its share is 5 %.
  tr -d , <<< "$saw" | awk '{ for (i = 1; i < NF; i += 2) { n[$(i + 1)] = $i; all += $i } }
    END { d = n["orders-1"] - n["orders-2"]
          exit !(d <= 2 && d >= -2 && n["orders-next-1"] <= 10 && n["orders-1"] + n["orders-2"] + n["orders-next-1"] == 40) }'
}

identified() {
  local head
  head=$(curl -s -D - -o "$state/echo" -H 'X-Request-Id: tour-1' -H 'Connection: X-Secret' -H 'X-Secret: 1' \
    "http://$dp1/api/v1/orders/echo") || return 1
  local field
  for field in X-Forwarded-For X-Forwarded-Proto X-Forwarded-Host X-Request-Id Via; do
    grep -qi "\"$field\":" "$state/echo" || { saw="the service saw no $field: $(< "$state/echo")"; return 1; }
  done
  grep -q '"path":"/echo"' "$state/echo" || { saw="the service saw another path than /echo: $(< "$state/echo")"; return 1; }
  ! grep -qi '"X-Secret":' "$state/echo" || { saw="the service saw X-Secret, which Connection names"; return 1; }
  saw=$(head -n 1 <<< "$head" | tr -d '\r')
}

over_tls() {
  local port
  for port in "$dp1_tls" "$dp2_tls"; do
    saw=$(curl -s -o "$state/echo" --max-time 10 --cacert "$GATEWAY_CA" -w 'HTTP/%{http_version} %{http_code}' \
      "https://localhost:$port/api/v1/orders/tls") || return 1
    [ "$saw" = 'HTTP/2 200' ] || return 1
    grep -q '"X-Forwarded-Proto","https"\|"X-Forwarded-Proto": *"https"' "$state/echo" ||
      { saw="the service saw another scheme: $(< "$state/echo")"; return 1; }
  done
  saw+=" with X-Forwarded-Proto: https"
}

# gatewayctl speaks gRPC, and the control plane is a gRPC service like any other.
grpc_passes() {
  cat > "$state/grpc.yaml" << END
kind: Service
name: admin
static: [{ address: "127.0.0.1:$admin_port" }]
protocol: http2
tls: { ca: { file: "$GATEWAY_CA" }, server_name: localhost }
---
kind: Route
name: admin
match: { grpc: { service: gateway.v1.Admin } }
service: admin
END
  ctl apply -f "$state/grpc.yaml" --wait > "$state/log/grpc.log" 2>&1 || { saw=$(< "$state/log/grpc.log"); return 1; }
  saw=$(ctl --server "localhost:$dp1_tls" dataplanes -o name 2>&1 | paste -sd ' ') || return 1
  [ "$saw" = 'dp-1 dp-2' ]
}

# A call needs TLS and a token.
credentials_required() {
  local rc=0
  saw=$(GATEWAY_TOKEN='' ctl dataplanes 2>&1) || rc=$?
  saw="exit code $rc: ${saw##*$'\n'}"
  [ "$rc" = 8 ] || return 1
  if GATEWAY_TOKEN='' GATEWAY_CA='' ctl --server "127.0.0.1:$admin_port" dataplanes > /dev/null 2>&1; then
    saw='a call without TLS was answered'
    return 1
  fi
}

registered() {
  local passing
  both_passing() {
    passing=$(curl -sf "http://$consul_address/v1/health/service/api-gateway?passing" | grep -oE '"ServiceID": *"[^"]+"' |
      sort -u | wc -l)
    [ "$passing" = 2 ]
  }
  within 10 both_passing
  local rc=$?
  saw="$passing passing"
  return $rc
}

consul_sees() { # STATUS: of the check of orders-2 in Consul
  curl -sf "http://$consul_address/v1/health/checks/orders" | tr -d ' \n' | sed 's/"CheckID"/\n&/g' |
    grep '"ServiceID":"orders-2"' |
    grep -q "\"Status\":\"$1\""
}

turned_critical() {
  curl -sf -o /dev/null -X POST "http://$orders2/admin/health?status=critical" || return 1
  within 10 consul_sees critical || { saw='Consul did not notice'; return 1; }
  local since=${EPOCHREALTIME/[.,]/} seen took
  alone() {
    seen="$(instances 10 "http://$dp1/api/v1/orders"); $(instances 10 "http://$dp2/api/v1/orders")"
    [[ $seen == *' orders-1'*' orders-1'* && $seen != *' orders-2'* && $seen != *status* ]]
  }
  within 5 alone || { saw="after 5 s still: $seen"; return 1; }
  took=$(((${EPOCHREALTIME/[.,]/} - since) / 1000))
  saw="on both data planes, the 20 requests included: $took ms"
  [ "$took" -lt 1000 ]
}

turned_passing() {
  curl -sf -o /dev/null -X POST "http://$orders2/admin/health?status=passing" || return 1
  within 10 balanced
}

# limited N URL: N responses are 200 and ten more are 429, with all headers and fields of such a response.
limited() {
  local counts answer text
  counts=$(curl -s -o /dev/null --max-time 30 -w '%{http_code}\n' "$2?[1-$(($1 + 10))]" | uniq -c |
    awk '{ print $1 " x " $2 }' | paste -sd, | sed 's/,/, /g')
  saw=$counts
  [ "$counts" = "$1 x 200, 10 x 429" ] || return 1
  answer=$(curl -s -i "$2") || return 1
  for text in '"error": *"Rate limit exceeded"' '"code": *429' '"reason": *"rate_limited"' '"request_id": *"' \
    '^Content-Type: application/json' '^Retry-After: [0-9]+' "^RateLimit-Limit: $1" '^RateLimit-Remaining: 0' \
    '^RateLimit-Reset: [0-9]+'; do
    grep -qiE "$text" <<< "$answer" || { saw="no $text in: $(tr -d '\r' <<< "$answer" | paste -sd ' ')"; return 1; }
  done
}

breaker_opens() {
  curl -sf -o /dev/null -X POST "http://$next/admin/fail?status=500" || return 1
  local answers
  answers=$(curl -s --max-time 30 -w ' %{http_code}\n' "http://$dp1/api/v1/orders-next/breaker?[1-60]" |
    grep -oE '"reason": ?"breaker_open"|[0-9]{3}$' | paste -sd ' ') || true
  saw="$(grep -oE '(^| )500' <<< "$answers" | wc -l) x 500, then $(grep -o 'breaker_open" 503' <<< "$answers" | wc -l) x 503 breaker_open"
  curl -sf -o /dev/null -X POST "http://$next/admin/fail?off" || return 1
  [[ $answers == *'breaker_open" 503' ]]
}

breaker_closes() {
  local began=${EPOCHREALTIME/[.,]/}
  within 10 answers "http://$dp1/api/v1/orders-next/breaker" || { saw='still open after 10 s'; return 1; }
  saw="after $(((${EPOCHREALTIME/[.,]/} - began) / 1000)) ms"
  [ "$(instances 20 "http://$dp1/api/v1/orders-next")" = '20 orders-next-1' ]
}

# series NAME LABEL...: the first sample with that name and all of these labels, in any order.
series() {
  local found label
  found=$(grep -E "^$1[{ ]" "$state/metrics") || return 1
  shift
  for label; do found=$(grep -F "$label" <<< "$found") || return 1; done
  head -n 1 <<< "$found"
}

measured() {
  local wanted words dynamic='/api/v1/{service}/**'
  [ -n "$consul_address" ] || dynamic=/api/v1/orders-next
  curl -sf "http://127.0.0.1:$dp1_metrics/metrics" > "$state/metrics" || return 1
  for wanted in 'api_requests_total method="GET" path="/api/v1/orders" service="orders"' \
    "api_requests_total method=\"GET\" path=\"$dynamic\" service=\"orders-next\"" \
    'api_response_time_seconds_bucket service="orders" le="0.005"' 'api_successes_total service="orders"' \
    'api_errors_total service="orders" error_type="rate_limited"' \
    'api_errors_total service="orders-next" error_type="breaker_open"' gateway_build_info process_cpu_seconds_total; do
    read -ra words <<< "$wanted"
    series "${words[@]}" > "$state/series" || { saw="no $wanted"; return 1; }
  done
  saw=$(series api_requests_total 'service="orders"')
  if grep -q 'orders/limited' "$state/metrics"; then
    saw='a raw path is a label'
    return 1
  fi
}

logged() {
  local line id=tour-log-$$ found
  found=$(curl -s -D - -o /dev/null "http://$dp1/api/v1/orders/logged?id=$id") || return 1
  in_log() { line=$(grep -F "logged?id=$id" "$state/log/dp-1-access.log"); }
  within 3 in_log || { saw='no line'; return 1; }
  saw=$line
  has_fields "$line" time method path client_ip user_agent status duration_ms service route endpoint upstream_duration_ms \
    bytes_in bytes_out request_id reason revision
}

# route NAME PATH SERVICE: a document.
route() { printf 'kind: Route\nname: %s\nmatch: { path: { prefix: %s } }\nservice: %s\n' "$@"; }

applied_everywhere() {
  local i answers
  # A Service and a Route of it in one revision.
  { printf 'kind: Service\nname: tour\nstatic: [{ address: "%s" }]\n---\n' "$next"; route tour /tour tour; } > "$state/change.yaml"
  before_change=$(current_revision)
  saw=$(ctl apply -f "$state/change.yaml" --wait) || return 1
  saw=${saw##*$'\n'}
  for ((i = 0; i < 10; i++)); do answers+="$(status "http://$dp1/tour/$i") $(status "http://$dp2/tour/$i") "; done
  [ -z "${answers//200 /}" ] || { saw+=", but then $answers"; return 1; }
  [[ $saw == *'2/2 data planes'* ]]
}

current_revision() { ctl rollout | grep -oE 'revision [0-9]+' | head -n 1 | cut -d ' ' -f 2; }

refused() {
  local rc=0 revision
  revision=$(current_revision)
  cat > "$state/invalid.yaml" << 'END'
kind: Service
name: bad
static: [{ address: "nonsense" }]
timeouts: { connect: soon }
---
kind: Route
name: bad
match: { path: { prefx: /bad } }
service: nowhere
timeout: -1s
END
  ctl apply -f "$state/invalid.yaml" > "$state/refused" 2>&1 || rc=$?
  saw="exit code $rc, $(grep -cE 'invalid.yaml:[0-9]+:[0-9]+' "$state/refused") errors named"
  [ "$rc" = 3 ] && [ "$(grep -cE 'invalid.yaml:[0-9]+:[0-9]+' "$state/refused")" = 5 ] && [ "$(current_revision)" = "$revision" ] ||
    { saw+=": $(paste -sd '|' "$state/refused")"; return 1; }
}

rolled_back() {
  saw=$(ctl rollback "$before_change" --wait 2>&1) || return 1
  saw=${saw##*$'\n'}
  [ "$(status "http://$dp1/tour") $(status "http://$dp2/tour")" = '404 404' ]
}

round_trip() {
  ctl export > "$state/export.yaml" || return 1
  local before
  before=$(current_revision)
  ctl apply -f "$state/export.yaml" > /dev/null || return 1
  saw="revision $before before and $(current_revision) after"
  [ "$(current_revision)" = "$before" ]
}

controlplane_killed() {
  start_load
  stop controlplane 5 KILL || true
  sleep 2 # the time of the outage, under load
  start_controlplane || return 1
  both_connected() { [ "$(ctl rollout --wait | grep -c '2/2 data planes')" = 1 ]; }
  within 15 both_connected || { saw='the data planes did not come back'; return 1; }
  report_load 200
}

change_after_outage() {
  saw=$(ctl apply -f "$state/change.yaml" --wait) || return 1
  saw=${saw##*$'\n'}
  [ "$(status "http://$dp1/tour") $(status "http://$dp2/tour")" = '200 200' ]
}

consul_stopped() {
  start_load
  kill -STOP "${pid_of[consul]}"
  sleep 3 # the time of the outage, under load
  kill -CONT "${pid_of[consul]}"
  report_load 200
}

ended_gracefully() {
  local rc=0 slow
  curl -s -o /dev/null --max-time 10 -w '%{http_code}' "http://$dp2/api/v1/orders-next/slow?delay=800ms" > "$state/slow" &
  slow=$!
  in_flight() { grep -qE '^gateway_requests_in_flight 1' <(curl -s "http://127.0.0.1:$dp2_metrics/metrics"); }
  within 1 in_flight || true
  stop dp-2 12 || rc=$?
  wait "$slow" || true
  saw="the request in flight was answered $(< "$state/slow"), exit code $rc"
  [ "$rc" = 0 ] && [ "$(< "$state/slow")" = 200 ]
}

taken_out() {
  one_left() { [ "$(curl -sf "http://$consul_address/v1/catalog/service/api-gateway" | grep -o '"ServiceID"' | wc -l)" = 1 ]; }
  within 5 one_left
}

canary_reverts() {
  local rc=0
  curl -sf -o /dev/null -X POST "http://$next/admin/fail?status=500" || return 1
  {
    printf 'kind: Service\nname: canary-v1\nstatic: [{ address: "%s" }]\n---\n' "$orders2"
    printf 'kind: Service\nname: canary-v2\nstatic: [{ address: "%s" }]\n---\n' "$next"
    printf 'kind: Route\nname: canary\nmatch: { path: { prefix: /canary } }\nsplit: [{ service: canary-v1 }, { service: canary-v2 }]\n'
    printf 'canary: { steps: [30, 100], every: 10m, guard: "error_rate<5%%" }\n'
  } > "$state/canary.yaml"
  ctl apply -f "$state/canary.yaml" --wait > /dev/null || return 1
  reverted() {
    instances 40 "http://$dp1/canary" > /dev/null
    instances 40 "http://$dp2/canary" > /dev/null
    [ "$(ctl canary canary -o jsonpath='{.phase}')" = reverted ]
  }
  within 20 reverted || rc=1
  ctl rollout --wait > /dev/null || rc=1
  saw="$(ctl canary canary | head -n 1 | sed 's/.*Z: //'), then $(instances 20 "http://$dp1/canary")"
  curl -sf -o /dev/null -X POST "http://$next/admin/fail?off" || rc=1
  [ "$rc" = 0 ] && [[ $saw == *'then 20 orders-2' ]]
}

# The tour, in the order of README.md. Returns 1 if anything differed.
tour() {
  local began=$SECONDS
  say 'The tour:'
  [ -z "$consul_address" ] || claim 'both data planes are registered in Consul, and healthy' registered
  claim 'requests are balanced over two instances' balanced
  claim 'the service gets the client address, and no hop-by-hop header' identified
  claim 'a listener with TLS speaks HTTP/2' over_tls
  claim 'the control plane refuses a call without a token' credentials_required
  claim 'a call of gRPC goes through the gateway, over TLS' grpc_passes
  if [ -n "$consul_address" ]; then
    claim 'an instance that turns critical gets no new request within a second' turned_critical
    claim 'and gets requests again when it recovers' turned_passing
  fi
  claim 'a limit of 1000 a minute means 1000, on two workers together' limited 1000 "http://$dp1/test-rate-limit"
  claim "and the route's own of 100 in ten seconds means 100" limited 100 "http://$dp1/api/v1/orders/limited"
  claim 'the breaker opens when a service fails' breaker_opens
  claim 'and closes when the service recovers' breaker_closes
  claim 'metrics count requests by route, errors by reason' measured
  claim 'the access log has a line with every field' logged
  claim 'a change that was applied with --wait serves on every worker' applied_everywhere
  claim 'a policy with five errors is rejected with all five, and changes nothing' refused
  claim 'an export that is applied again changes nothing' round_trip
  claim 'a rollback brings an older revision back' rolled_back
  claim 'a canary whose new side fails reverts itself' canary_reverts
  claim 'kill -9 of the control plane fails no request' controlplane_killed
  claim 'and the next change reaches both data planes' change_after_outage
  [ -z "$consul_address" ] || claim 'a Consul that hangs (SIGSTOP) fails no request' consul_stopped
  claim 'SIGTERM finishes requests in flight, then ends' ended_gracefully
  [ -z "$consul_address" ] || claim 'and deregisters the data plane from Consul' taken_out
  say "$((tour_count - tour_failed)) of $tour_count hold, in $((SECONDS - began)) s."
  [ "$tour_failed" = 0 ]
}
