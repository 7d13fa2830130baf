-- Stores one answer, and makes room for it: what has gone by itself is taken off the books, then what would go soonest is
-- dropped, until all answers fit below the cap. Nothing of the counters is touched.
--
-- KEYS: the answer, the index (a sorted set: answer by the moment it goes), the sizes (a hash: answer -> bytes, and ` ` -> their sum)
-- ARGV: the answer, its life in milliseconds, the cap in bytes, the longest life in milliseconds
local answer, index, sizes = KEYS[1], KEYS[2], KEYS[3]
local life, cap, longest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local size = #ARGV[1] + 256 -- what Redis itself needs for an answer, about

local function forget(name)
  local held = redis.call('HGET', sizes, name)
  redis.call('HDEL', sizes, name)
  redis.call('ZREM', index, name)
  if held then redis.call('HINCRBY', sizes, ' ', -held) end
end

forget(answer)
if size > cap then
  redis.call('DEL', answer)
  return 0
end
-- A few at a time: the rest has its turn with the next answer.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, 64)) do
  forget(name)
end
while tonumber(redis.call('HGET', sizes, ' ') or 0) + size > cap do
  local first = redis.call('ZRANGE', index, 0, 0)[1]
  if not first then
    redis.call('DEL', sizes)
    break
  end
  forget(first)
  redis.call('UNLINK', first)
end
redis.call('SET', answer, ARGV[1], 'PX', life)
redis.call('ZADD', index, now + life, answer)
redis.call('HSET', sizes, answer, size)
redis.call('HINCRBY', sizes, ' ', size)
redis.call('PEXPIRE', index, longest)
redis.call('PEXPIRE', sizes, longest)
return 1
