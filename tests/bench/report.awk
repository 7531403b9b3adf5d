# Medians, spreads and ratios of samples.tsv (row, who, round, cost, requests/s, p50 us, p99 us, errors): prints a
# table and writes JSON to `json`. Called by tools/bench with -v targets="ROW LIMIT WHO OTHER,OTHER;..." -v units="ROW
# UNIT;..." -v rows="..." -v spread_max=PERCENT -v facts='"key": value, ...' -v json=FILE.
#
# A ratio is taken within each round, against the better (by median) of the others, so a slowdown of a whole round
# cancels out. The verdict is `too noisy to tell` if the ratios' spread is above spread_max, unless all are on one side
# of the target (with only two: by as much).

BEGIN { FS = "\t" }
$3 > 0 {
  key = $1 SUBSEP $2
  if (!(key in count)) who[$1] = who[$1] " " $2
  n = ++count[key]
  for (i = 4; i <= 8; i++) sample[key, i, n] = $i
  errors[key] += $8
}
function sorted(key, column,   i, j, t) { # into v[1..n]
  for (i = 1; i <= count[key]; i++) {
    v[i] = sample[key, column, i] + 0
    for (j = i; j > 1 && v[j - 1] > v[j]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
  }
  return count[key]
}
function median(key, column,   n) {
  n = sorted(key, column)
  return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}
function spread(key, column,   m) { # percent
  m = median(key, column)
  return m > 0 ? (v[count[key]] - v[1]) / m * 100 : 0
}
function judge(row, limit, name, others,   i, n, list, best, m, mkey, okey, key, verdict, cost, margin) {
  mkey = row SUBSEP name
  if (!(mkey in count)) return
  n = split(others, list, ",")
  best = ""
  for (i = 1; i <= n; i++) {
    if (!((row SUBSEP list[i]) in count)) continue
    cost = median(row SUBSEP list[i], 4)
    if (best == "" || cost < m) { best = list[i]; m = cost }
  }
  if (best == "") return
  okey = row SUBSEP best
  key = row SUBSEP name "/" best
  count[key] = 0
  for (i = 1; i <= count[mkey] && i <= count[okey]; i++) {
    if (sample[okey, 4, i] > 0) sample[key, 4, ++count[key]] = sample[mkey, 4, i] / sample[okey, 4, i]
  }
  if (count[key] == 0) return
  m = median(key, 4)
  cost = spread(key, 4)
  verdict = m <= limit ? "reached" : "missed"
  # v is sorted: all rounds are on one side, and if there are only two, clearly so
  margin = count[key] < 3 ? spread_max / 100 : 0
  if (cost > spread_max && v[count[key]] > limit * (1 - margin) && v[1] <= limit * (1 + margin)) verdict = "too noisy to tell"
  printf "%-13s %-12s %10.2f %6.0f%%   target <= %.2f of %s: %s\n", "", name, m, cost, limit, best, verdict
  printf "%s\n    {\"who\": \"%s\", \"of\": \"%s\", \"ratio\": %.3f, \"spread_percent\": %.1f, \"target\": %.2f, \"verdict\": \"%s\"}", \
    (judged++ ? "," : ""), name, best, m, cost, limit, verdict > json
}
END {
  row_count = split(rows, row_list, " ")
  unit_count = split(units, unit_list, ";")
  for (i = 1; i <= unit_count; i++) unit[substr(unit_list[i], 1, index(unit_list[i], " ") - 1)] = substr(unit_list[i], index(unit_list[i], " ") + 1)
  target_count = split(targets, target_list, ";")
  printf "{%s, \"rows\": [", facts > json
  for (r = 1; r <= row_count; r++) {
    row = row_list[r]
    if (!(row in who)) continue
    printf "\n%-13s %-12s %10s %7s %9s %9s %9s %7s\n", row, "", unit[row], "spread", "req/s", "p50 us", "p99 us", "errors"
    printf "%s\n  {\"row\": \"%s\", \"unit\": \"%s\", \"measured\": [", (written++ ? "," : ""), row, unit[row] > json
    names = split(who[row], name, " ")
    for (p = 1; p <= names; p++) {
      key = row SUBSEP name[p]
      printf "%-13s %-12s %10.1f %6.0f%% %9.0f %9.0f %9.0f %7d\n", "", name[p], median(key, 4), spread(key, 4), median(key, 5), median(key, 6), median(key, 7), errors[key]
      printf "%s\n    {\"who\": \"%s\", \"cost\": %.3f, \"spread_percent\": %.1f, \"requests_per_second\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"errors\": %d}", \
        (p > 1 ? "," : ""), name[p], median(key, 4), spread(key, 4), median(key, 5), median(key, 6), median(key, 7), errors[key] > json
    }
    printf "],\n   \"ratios\": [" > json
    judged = 0
    for (t = 1; t <= target_count; t++) {
      split(target_list[t], part, " ")
      if (part[1] == row) judge(row, part[2], part[3], part[4])
    }
    printf "]}" > json
  }
  print "\n]}" > json
}
