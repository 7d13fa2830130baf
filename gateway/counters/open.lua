-- Open an epoch, unless one of the same server is open already; tells which epoch holds.
-- KEYS: epoch, sequence, rebuild
-- ARGV: the new epoch, its first part (the server's run id and a dot), first sequence number, the rebuild's token or ''
-- Reply: the epoch, '' where the rebuild is not this one any more: what it wrote may be gone
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #ARGV[2]) == ARGV[2] then return held end
if ARGV[4] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[4] then return '' end
redis.call('DEL', KEYS[3])
redis.call('SET', KEYS[1], ARGV[1], 'PX', 2592000000)
redis.call('SET', KEYS[2], ARGV[3], 'PX', 2592000000)
return ARGV[1]
