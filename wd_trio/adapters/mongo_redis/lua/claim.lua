-- KEYS: the claims, holder -> "server/worker". ARGV: holder, owner, most, then the live servers
local live = {}
for at = 4, #ARGV do live[ARGV[at]] = true end
local claims = redis.call('HGETALL', KEYS[1])
local taken = 0
for at = 1, #claims, 2 do
  local server = string.match(claims[at + 1], '^(.*)/') or claims[at + 1]
  if claims[at] == ARGV[1] then
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    return 1
  elseif live[server] then
    taken = taken + 1
  else
    redis.call('HDEL', KEYS[1], claims[at])
  end
end
if taken >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
