-- Count what was spent before a budget's counter began; a second time changes nothing.
-- KEYS: epoch, the counter of the period   ARGV: epoch, spent earlier, ms until the counter expires
-- `b` is how much of the total came from the ledger, `u` how much of that was spent by requests that never charged the
-- counter (where it is not told: all of `b`): only what exceeds it is added.
-- Reply: what was added, -1 where the epoch is another
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local got = redis.call('HMGET', KEYS[2], 't', 'b', 'u')
local base = tonumber(got[2]) or 0
local more = tonumber(ARGV[2]) - (tonumber(got[3]) or base)
if more <= 0 then return 0 end
redis.call('HSET', KEYS[2], 't', (tonumber(got[1]) or 0) + more, 'b', base + more, 'u', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return more
