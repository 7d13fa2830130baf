-- Bring what credits and charges add to a budget's counter to a sum; a second time changes nothing.
-- KEYS: epoch, the counter of the period   ARGV: epoch, the sum of its credits and charges, ms until the counter expires
-- `c` is the sum that the total has already; it may be below zero, and then so may the total.
-- Reply: 1 done, -1 where the epoch is another
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local got = redis.call('HMGET', KEYS[2], 't', 'c')
local sum, before = tonumber(ARGV[2]), tonumber(got[2]) or 0
if sum == before then return 1 end
local total = math.max(math.min(0, sum), (tonumber(got[1]) or 0) + sum - before)
redis.call('HSET', KEYS[2], 't', total, 'c', sum)
if not got[1] then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return 1
