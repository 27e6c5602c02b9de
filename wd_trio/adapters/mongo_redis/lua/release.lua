-- KEYS: the claims, holder -> "server/worker". ARGV: holder, owner or "" for whosever
local owner = redis.call('HGET', KEYS[1], ARGV[1])
if not owner or (ARGV[2] ~= '' and ARGV[2] ~= owner) then return false end
redis.call('HDEL', KEYS[1], ARGV[1])
return owner
