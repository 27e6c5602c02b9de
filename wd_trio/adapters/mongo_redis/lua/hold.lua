-- KEYS: a server's sessions as id -> about, in order of id, by the time they expire. ARGV: offset_ms, id, ttl_ms, about
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
redis.call('ZADD', KEYS[2], 0, ARGV[2])
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[2])
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, 2 * ARGV[3])
end
return 1
