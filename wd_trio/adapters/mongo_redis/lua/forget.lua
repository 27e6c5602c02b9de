-- KEYS: the servers by the end of their leases in ms. ARGV: offset_ms, server
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local ends = redis.call('ZSCORE', KEYS[1], ARGV[2])
if ends and tonumber(ends) <= now then
  return redis.call('ZREM', KEYS[1], ARGV[2])
end
return 0
