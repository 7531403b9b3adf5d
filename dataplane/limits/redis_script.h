// What Redis runs for one request: all of its limits of scope `redis`, checked together and consumed together.
#ifndef GATEWAY_DATAPLANE_LIMITS_REDIS_SCRIPT_H_
#define GATEWAY_DATAPLANE_LIMITS_REDIS_SCRIPT_H_

#include <string_view>

namespace gateway::dataplane {

// KEYS: one a limit. ARGV, five a limit: algorithm (s, t, f), requests, window in microseconds, burst, 1 for a shadow.
// Gives three integers a limit: allowed, remaining, milliseconds (as in RateLimitDecision).
//
// Time is Redis' own, so gateways whose clocks differ count alike; in microseconds, of which a double holds enough (and
// which tostring would print as 1.79e+15: hence %.0f). Every key expires when it has recovered. Redis 5 or newer.
//
// A sliding window is a list of "moment admitted-so-far". Its first element may be the newest that has left the window:
// what had been admitted by then is what the rest is counted from. Moments are told apart as in RateLimiter.
inline constexpr std::string_view kRedisScript = R"lua(
local clock = redis.call('TIME')
local time = clock[1] * 1000000 + clock[2]
local function pair_of(value)
  local a, b = string.match(value, '^(%S+) (%S+)$')
  return tonumber(a), tonumber(b)
end
local answer, writes, allowed = {}, {}, true
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 5
  local kind, requests, window = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local burst, shadow, now = tonumber(ARGV[a + 4]), ARGV[a + 5] == '1', time
  local ok, left, wait, write = false, 0, 0, nil
  if kind == 't' then
    local cost, debt = window / requests, 0
    local value = redis.call('GET', key)
    if value then
      local owed, at = pair_of(value)
      if now < at then now = at end
      debt = math.max(0, owed - (now - at))
    end
    local spare = burst * cost - (debt + cost)
    ok = spare >= -0.01
    if ok then
      debt = debt + cost
      left, wait = math.floor(math.max(0, spare) / cost + 0.000001), debt
      write = {'SET', key, string.format('%.3f %.0f', debt, now), 'PX', string.format('%.0f', debt / 1000 + 2)}
    else
      wait = -spare
    end
  elseif kind == 'f' then
    local index, count = math.floor(now / window), 0
    local value = redis.call('GET', key)
    if value then
      local last, counted = pair_of(value)
      if last >= index then index, count = last, counted end
    end
    ok, wait = count < requests, (index + 1) * window - now
    if ok then
      left = requests - count - 1
      write = {'SET', key, string.format('%.0f %.0f', index, count + 1), 'PX', string.format('%.0f', wait / 1000 + 2)}
    end
  else
    local base, total, last, so_far, first_at = 0, 0, nil, 0, 0
    local tail = redis.call('LINDEX', key, -1)
    if tail then
      last, so_far = pair_of(tail)
      if now < last then now = last end
      if last <= now - window then
        redis.call('DEL', key)
        last, so_far = nil, 0
      else
        local moment, admitted = pair_of(redis.call('LINDEX', key, 0))
        while moment <= now - window do
          base, first_at = admitted, 1
          moment, admitted = pair_of(redis.call('LINDEX', key, 1))
          if moment <= now - window then redis.call('LPOP', key) end
        end
        total = so_far - base
      end
    end
    ok = total < requests
    if ok then
      left, wait = requests - total - 1, window
      local value, size, part = string.format('%.0f %.0f', now, so_far + 1), 0, math.floor(window / 192)
      if last then size = redis.call('LLEN', key) end
      if last and (last == now or (size >= 64 and math.floor(last / part) == math.floor(now / part))) then
        write = {'LSET', key, '-1', value}
      else
        write = {'RPUSH', key, value}
      end
    else
      local moment, admitted
      repeat
        moment, admitted = pair_of(redis.call('LINDEX', key, first_at))
        first_at = first_at + 1
      until admitted - base > total - requests
      wait = moment + window - now
    end
  end
  if not ok and not shadow then allowed = false end
  if ok then writes[#writes + 1] = {write, key, kind == 's' and window / 1000 + 2} end
  answer[#answer + 1] = ok and 1 or 0
  answer[#answer + 1] = left
  answer[#answer + 1] = math.ceil(wait / 1000)
end
if allowed then
  for _, each in ipairs(writes) do
    redis.call(unpack(each[1]))
    if each[3] then redis.call('PEXPIRE', each[2], string.format('%.0f', each[3])) end
  end
end
return answer
)lua";

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_LIMITS_REDIS_SCRIPT_H_
