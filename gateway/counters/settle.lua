-- Correct what a request was charged to what it used, where it was charged; ends the request.
-- KEYS: epoch, memory of the request, the counters of the entries
-- ARGV[1] (msgpack): {epoch, worker, void, entries}; an entry is {kind, position, window, delta}, kinds as in
--   reserve.lua and 4, an idempotency claim: delta 1 marks it done, 0 frees it
-- void: nobody knows whether the request was admitted. Where it was, the reply is the grant and nothing changes;
--   where not, it is marked as void, so that a reservation that is still under way cannot take effect.
-- Reply (msgpack): {1, ms} | {2, ms} lost | {6, ms, the grant}
local ask = cmsgpack.unpack(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('GET', KEYS[1]) ~= ask[1] then return cmsgpack.pack({2, now}) end
local worker, entries = ask[2], ask[4]
local remembered = redis.call('GET', KEYS[2])
if remembered == 'E' then return cmsgpack.pack({1, now}) end
if ask[3] == 1 then
  if remembered and remembered ~= 'V' then
    return cmsgpack.pack({6, now, string.sub(remembered, string.find(remembered, ':', 1, true) + 1)})
  end
  redis.call('SET', KEYS[2], 'V', 'PX', 60000)
  return cmsgpack.pack({1, now})
end
for i, e in ipairs(entries) do
  local kind, position, w, delta, key = e[1], e[2], e[3], e[4], KEYS[i + 2]
  if kind == 1 then
    local head = math.floor(now * 60 / w)
    local got = redis.call('HMGET', key, 'h', 't')
    local h, t = tonumber(got[1]), tonumber(got[2]) or 0
    local new = false
    if not h then
      h, t, new = head, 0, true
    elseif head - h > 60 then
      redis.call('DEL', key)
      h, t, new = head, 0, true
    elseif head > h then
      local gone = {}
      for b = h + 1, head do gone[#gone + 1] = b % 61 end
      for _, v in ipairs(redis.call('HMGET', key, unpack(gone))) do t = t - (tonumber(v) or 0) end
      redis.call('HDEL', key, unpack(gone))
      redis.call('HSET', key, 'h', head, 't', t)
      h = head
      redis.call('PEXPIRE', key, w + math.ceil(w / 20) + 1000)
    end
    local inside = position <= h and position >= h - 60
    if delta > 0 then
      if not inside then position = h end
      local c = tonumber(redis.call('HGET', key, position % 61)) or 0
      redis.call('HSET', key, 'h', h, 't', t + delta, position % 61, c + delta)
      if new then redis.call('PEXPIRE', key, w + math.ceil(w / 20) + 1000) end
    elseif delta < 0 and inside and not new then
      local c = tonumber(redis.call('HGET', key, position % 61)) or 0
      local back = math.min(c, -delta)
      redis.call('HSET', key, 't', t - back, position % 61, c - back)
    end
  elseif kind == 2 then
    local field = 'w:' .. worker
    local got = redis.call('HMGET', key, 't', field)
    local t = tonumber(got[1])
    if t or delta > 0 then
      redis.call('HSET', key, 't', math.max(0, (t or 0) + delta), field, (tonumber(got[2]) or 0) + delta)
      if not t then
        redis.call('PEXPIRE', key, math.max(1000, math.min(position + w - now + 259200000, 315360000000)))
      end
    end
  elseif kind == 3 then
    local count = (tonumber(redis.call('HGET', key, worker)) or 0) + delta
    if count > 0 then redis.call('HSET', key, worker, count) else redis.call('HDEL', key, worker) end
    if delta > 0 then redis.call('PEXPIRE', key, 86400000) end
  elseif kind == 4 then
    if delta == 0 then redis.call('DEL', key)
    else
      local held = redis.call('GET', key)
      if held then redis.call('SET', key, 'd' .. string.sub(held, 2), 'KEEPTTL') end
    end
  end
end
redis.call('SET', KEYS[2], 'E', 'PX', 60000)
return cmsgpack.pack({1, now})
