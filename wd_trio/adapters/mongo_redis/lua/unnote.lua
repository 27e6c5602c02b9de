-- KEYS: a server's notes, [key, holder] -> "server/worker". ARGV: a note and whose it was, and so on
for at = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[at]) == ARGV[at + 1] then redis.call('HDEL', KEYS[1], ARGV[at]) end
end
return #ARGV / 2
