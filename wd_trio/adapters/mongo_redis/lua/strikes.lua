-- KEYS: count and end of the window in ms. ARGV: offset_ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local found = redis.call('HMGET', KEYS[1], 'count', 'ends')
if tonumber(found[2] or 0) <= now then return 0 end
return tonumber(found[1])
