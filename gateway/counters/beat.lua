-- Renew a worker's liveness and the lifetime of what every script needs; tell who is alive.
-- KEYS: live workers, epoch, sequence   ARGV: worker
-- Reply (msgpack): {ms, epoch or '', workers seen in the last 3 s}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then redis.call('HSET', KEYS[1], ARGV[1], now) end
redis.call('PEXPIRE', KEYS[1], 600000)
redis.call('PEXPIRE', KEYS[2], 2592000000)
redis.call('PEXPIRE', KEYS[3], 2592000000)
local live, seen = 0, redis.call('HGETALL', KEYS[1])
for j = 1, #seen, 2 do
  local quiet = now - tonumber(seen[j + 1])
  if quiet <= 3000 then live = live + 1
  elseif quiet > 120000 then redis.call('HDEL', KEYS[1], seen[j]) end
end
return cmsgpack.pack({now, redis.call('GET', KEYS[2]) or '', live})
