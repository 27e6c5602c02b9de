-- KEYS: the servers by the end of their leases in ms. ARGV: offset_ms, server or "", ttl_ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
if ARGV[2] ~= '' then
  local ends = now + ARGV[3]
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[2]) or 0) < ends then
    redis.call('ZADD', KEYS[1], ends, ARGV[2])
  end
end
local answer = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
table.insert(answer, 1, now)
return answer
