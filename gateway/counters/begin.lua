-- Begin to rebuild, unless an epoch of this server is open: from here on nobody charges, and only this token may write.
-- KEYS: epoch, rebuild   ARGV: what an epoch of this server begins with (its run id and a dot), the token
-- Reply: the epoch that is open, '' where there is none
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #ARGV[1]) == ARGV[1] then return held end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', 600000)
return ''
