-- KEYS: a server's sessions as id -> about, in order of id, by the time they expire, and the doomed. ARGV: ids
for _, id in ipairs(ARGV) do
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
  redis.call('SREM', KEYS[4], id)
end
return #ARGV
