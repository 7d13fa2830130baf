-- Write what a worker holds into a new epoch, as absolute values: repeating it changes nothing.
-- KEYS: epoch, the worker's holds, the counters
-- ARGV[1] (msgpack): {epoch, worker, entries}; an entry is {kind, start, length, amount}
-- ARGV[2...]: the admissions that stand behind them, each followed by what it took, as reserve.lua keeps it
-- Reply (msgpack): {1} | {2} lost
local ask = cmsgpack.unpack(ARGV[1])
if redis.call('GET', KEYS[1]) ~= ask[1] then return cmsgpack.pack({2}) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local worker = ask[2]
for i, e in ipairs(ask[3]) do
  local key = KEYS[i + 2]
  if e[1] == 2 then
    local field = 'w:' .. worker
    local got = redis.call('HMGET', key, 't', field, 'c')
    local t = (tonumber(got[1]) or 0) - (tonumber(got[2]) or 0) + e[4]
    redis.call('HSET', key, 't', math.max(math.min(0, tonumber(got[3]) or 0), t), field, e[4])
    if not got[1] then
      redis.call('PEXPIRE', key, math.max(1000, math.min(e[2] + e[3] - now + 259200000, 315360000000)))
    end
  elseif e[1] == 3 then
    if e[4] > 0 then redis.call('HSET', key, worker, e[4]) else redis.call('HDEL', key, worker) end
    redis.call('PEXPIRE', key, 86400000)
  end
end
if ARGV[2] then
  redis.call('HSET', KEYS[2], unpack(ARGV, 2))
  redis.call('PEXPIRE', KEYS[2], 259200000)
end
return cmsgpack.pack({1})
