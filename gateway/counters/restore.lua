-- Write a part of what is rebuilt, as absolute values; nothing where another rebuild has begun or Redis was wiped since.
-- KEYS: rebuild, the keys   ARGV[1] (msgpack): {token, entries}; an entry is false, which takes its key out, or
--   {ms until it expires, field, value, field, value, ...}
-- Reply: 1 done, 0 not this rebuild any more
local ask = cmsgpack.unpack(ARGV[1])
if redis.call('GET', KEYS[1]) ~= ask[1] then return 0 end
for i, e in ipairs(ask[2]) do
  local key = KEYS[i + 1]
  if e then
    redis.call('HSET', key, unpack(e, 2))
    redis.call('PEXPIRE', key, e[1])
  else
    redis.call('UNLINK', key)
  end
end
return 1
