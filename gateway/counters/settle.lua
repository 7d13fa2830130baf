-- Correct what a request was charged to what it used, where it was charged; ends the request.
-- KEYS: epoch, the worker's holds, the counters of the entries, memory of the request
-- ARGV: epoch, worker, '0' to settle, '1' to void, '2' to ask, '3' to settle where no hold was kept,
--   '4' to settle only what is still held, '5' to report: no hold was kept, and it is remembered for a day;
--   entries <Bi8i8i8: kind, position, window, delta; kinds as in reserve.lua and 4, an idempotency claim: delta 1 marks
--   it done, 0 frees it
-- void: nobody knows whether the request was admitted. Where it was, the reply is the grant and nothing changes;
--   where not, it is marked as void, so that a reservation that is still under way cannot take effect.
-- ask: the same without the mark: the latest grant, if it is remembered.
-- The hold ends with the settlement. A memory that ends in '~' undoes an admission, one in '~n' a top-up, whose part
--   of the hold is taken out.
-- Reply <Bi8: 1 done, 2 lost, 6 admitted, followed by the grant; and the time in ms
local call, floor, ceil = redis.call, math.floor, math.ceil
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
if call('GET', KEYS[1]) ~= ARGV[1] then return struct.pack('<Bi8', 2, now) end
local worker, memory = ARGV[2], KEYS[#KEYS]
local remembered = call('GET', memory)
if remembered == 'E' then return struct.pack('<Bi8', 1, now) end
local mode = ARGV[3]
if mode == '1' or mode == '2' then
  if remembered and #remembered > 1 then return struct.pack('<Bi8', 6, now) .. string.sub(remembered, 5) end
  if mode == '1' then call('SET', memory, 'V', 'PX', 60000) end
  return struct.pack('<Bi8', 1, now)
end

local function expire(key, w) call('PEXPIRE', key, w + ceil(w / 20) + 1000) end

local taken_out = nil
if mode ~= '3' and mode ~= '5' then
  local holds, admission, step = KEYS[2], string.match(memory, '^([^~+]*)[~+]?(.*)$')
  if step == '' then
    if call('HDEL', holds, admission) == 0 and mode == '4' then return struct.pack('<Bi8', 1, now) end
  else
    taken_out = call('HGET', holds, admission)
  end
end

local entries, offset, length, i = ARGV[4], 1, #ARGV[4], 2
while offset < length do
  local kind, position, w, delta
  kind, position, w, delta, offset = struct.unpack('<Bi8i8i8', entries, offset)
  i = i + 1
  local key = KEYS[i]
  if taken_out then taken_out = taken_out .. struct.pack('<Bi8i8i8I4', kind, position, w, delta, #key) .. key end
  if kind == 1 then
    local head = floor(now * 60 / w)
    local got = call('HMGET', key, 'h', 't', position % 61)
    local h, t, c = tonumber(got[1]), tonumber(got[2]) or 0, tonumber(got[3]) or 0
    local new = not h
    if h ~= head then
      if not h then
        h, t, c = head, 0, 0
      elseif head - h > 60 then
        call('DEL', key)
        h, t, c, new = head, 0, 0, true
      elseif head > h then
        local gone = {}
        for b = h + 1, head do gone[#gone + 1] = b % 61 end
        for _, v in ipairs(call('HMGET', key, unpack(gone))) do t = t - (tonumber(v) or 0) end
        call('HDEL', key, unpack(gone))
        call('HSET', key, 'h', head, 't', t)
        expire(key, w)
        if position > h then c = 0 end -- that slot held a bucket that has just left
        h = head
      end
    end
    local inside = position <= h and position >= h - 60
    if delta > 0 then
      if not inside then
        position = h
        c = tonumber(call('HGET', key, h % 61)) or 0
      end
      call('HSET', key, 'h', h, 't', t + delta, position % 61, c + delta)
      if new then expire(key, w) end
    elseif delta < 0 and inside and not new then
      local back = math.min(c, -delta)
      call('HSET', key, 't', t - back, position % 61, c - back)
    end
  elseif kind == 2 then
    local field = 'w:' .. worker
    local got = call('HMGET', key, 't', field, 'c')
    local t = tonumber(got[1])
    if t or delta > 0 then
      -- Nothing goes below zero but by what was given back.
      local least = math.min(0, tonumber(got[3]) or 0)
      call('HSET', key, 't', math.max(least, (t or 0) + delta), field, (tonumber(got[2]) or 0) + delta)
      if not t then
        call('PEXPIRE', key, math.max(1000, math.min(position + w - now + 259200000, 315360000000)))
      end
    end
  elseif kind == 3 then
    local count = (tonumber(call('HGET', key, worker)) or 0) + delta
    if count > 0 then call('HSET', key, worker, count) else call('HDEL', key, worker) end
    if delta > 0 then call('PEXPIRE', key, 86400000) end
  elseif delta == 0 then
    call('DEL', key)
  else
    local held = call('GET', key)
    if held then call('SET', key, 'd' .. string.sub(held, 2), 'KEEPTTL') end
  end
end
if taken_out then call('HSET', KEYS[2], string.match(memory, '^[^~+]*'), taken_out) end
call('SET', memory, 'E', 'PX', mode == '5' and 86400000 or 60000)
return struct.pack('<Bi8', 1, now)
