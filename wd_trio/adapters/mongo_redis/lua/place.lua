-- KEYS: a user's sessions, id -> "expires protocol server". ARGV: offset_ms, id, ttl_ms, most or -1, protocol, server,
-- then the live servers. Entries whose time is over go; those of dead servers are left for the sweep, uncounted.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local most = tonumber(ARGV[4])
if most >= 0 then
  local live = {}
  for at = 7, #ARGV do live[ARGV[at]] = true end
  local entries = redis.call('HGETALL', KEYS[1])
  local taken = 0
  for at = 1, #entries, 2 do
    local expires, protocol, server = string.match(entries[at + 1], '^(%d+) (%S+) (.*)$')
    if tonumber(expires) <= now then
      redis.call('HDEL', KEYS[1], entries[at])
    elseif protocol == ARGV[5] and live[server] then
      taken = taken + 1
    end
  end
  if taken >= most then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[2], string.format('%d %s %s', now + ARGV[3], ARGV[5], ARGV[6]))
redis.call('PEXPIRE', KEYS[1], 2 * ARGV[3])
return 1
