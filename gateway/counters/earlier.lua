-- Count what was spent before a budget's counter began; a second time changes nothing.
-- KEYS: epoch, the counter of the period   ARGV: epoch, spent earlier, ms until the counter expires
-- `b` is how much of the total came from the ledger: only what exceeds it is added.
-- Reply: what was added, -1 where the epoch is another
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local more = tonumber(ARGV[2]) - (tonumber(redis.call('HGET', KEYS[2], 'b')) or 0)
if more <= 0 then return 0 end
local total = (tonumber(redis.call('HGET', KEYS[2], 't')) or 0) + more
redis.call('HSET', KEYS[2], 't', total, 'b', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return more
