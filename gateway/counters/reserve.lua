-- Decide all limits and budgets of a request, all or nothing; a refusal changes no count.
-- KEYS: epoch, sequence, live workers, the worker's holds, the draws' counters, memory of the request [, idempotency claim]
-- ARGV: epoch, worker, draws, ask, digest of the body ('' without a claim)
--   draw <BBBBBi8i8i8i8i8: kind, amount class, observe, set, alternative, per token, capacity, and
--     kind 1, sliding: window; kind 2, period (two keys: present, next): start, end, end of the next; kind 3: none
--   ask <i8i8i8i8i8: step, output asked, least output, prompt tokens, money
-- A hold is kept for each admission that takes tokens or money of a period or of a window of an hour or longer, or a
-- claim, until it is settled: one <Bi8i8i8I4 (kind, position, window, amount, length of the key) and key after the other.
-- Reply <B...: 1 granted: ms, sequence, output, then of each draw: position or -1, remaining, reset in ms
--   0 refused: ms, draw, remaining, reset in ms or -1 for never, needed | 2 lost: ms | 3 edges are out of date: ms
--   4 claimed: ms, B 1 other body, 2 in flight, 3 already completed | 5 ended: ms
local call, floor, ceil, pack, parse = redis.call, math.floor, math.ceil, struct.pack, struct.unpack
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
if call('GET', KEYS[1]) ~= ARGV[1] then return pack('<Bi8', 2, now) end
local step, asked, least, prompt, money = parse('<i8i8i8i8i8', ARGV[4])
local worker, digest, claim, memory = ARGV[2], ARGV[5], nil, KEYS[#KEYS]
if digest ~= '' then claim = memory; memory = KEYS[#KEYS - 1] end
local mark = pack('<I4', step)
local remembered = call('GET', memory)
if remembered then
  if string.sub(remembered, 1, 4) == mark then return string.sub(remembered, 5) end
  if #remembered == 1 then return pack('<Bi8', 5, now) end
end
if claim then
  local held = call('GET', claim)
  if held then
    local reason = 2
    if string.sub(held, 2) ~= digest then reason = 1 elseif string.sub(held, 1, 1) == 'd' then reason = 3 end
    return pack('<Bi8B', 4, now, reason)
  end
end

-- A draw is one table, made at its full size: what is found out about it, then what came in.
local USED, SLOT, AT, NEW, END, KEY, CHARGED = 1, 2, 3, 4, 5, 6, 7
local KIND, AMOUNT, OBSERVE, SET, ALTERNATIVE, PER, CAPACITY, FIRST, SECOND, THIRD, NEXT =
  8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
local draws, n, place, offset, length = {false, false, false, false, false, false, false, false}, 0, 5, 1, #ARGV[3]
local lasting = claim ~= nil
while offset < length do
  local d = {0, 0, 0, false, 0, place, false, parse('<BBBBBi8i8i8i8i8', ARGV[3], offset)}
  local class = d[AMOUNT]
  if class ~= 1 and (d[KIND] == 2 or d[KIND] == 1 and d[FIRST] >= 3600000) then lasting = true end
  if class == 2 then d[AMOUNT] = prompt elseif class == 3 then d[AMOUNT] = money end -- 0 and 1 are the amount
  place = place + 1
  if d[KIND] == 2 then place = place + 1 end
  n, offset = n + 1, d[NEXT]
  draws[n] = d
end

local alive = nil
local function read(d) -- false where the worker's calendar is out of date
  local kind, place = d[KIND], d[KEY]
  local key = KEYS[place]
  d[KEY] = key
  if kind == 1 then
    local head = floor(now * 60 / d[FIRST])
    local got = call('HMGET', key, 'h', 't', head % 61)
    local h, t, c = tonumber(got[1]), tonumber(got[2]) or 0, tonumber(got[3]) or 0
    if h ~= head then
      if not h then
        t, c, d[NEW] = 0, 0, true
      elseif head - h > 60 then
        call('DEL', key)
        t, c, d[NEW] = 0, 0, true
      elseif head > h then
        local gone = {}
        for b = h + 1, head do gone[#gone + 1] = b % 61 end
        for _, v in ipairs(call('HMGET', key, unpack(gone))) do t = t - (tonumber(v) or 0) end
        call('HDEL', key, unpack(gone))
        call('HSET', key, 'h', head, 't', t)
        -- Here, also where this call is refused: those that follow in the same bucket may be admitted.
        call('PEXPIRE', key, d[FIRST] + ceil(d[FIRST] / 20) + 1000)
        c = 0
      else -- the clock went back
        head = h
        c = tonumber(call('HGET', key, head % 61)) or 0
      end
    end
    d[USED], d[SLOT], d[AT] = t, c, head
  elseif kind == 2 then
    if now < d[FIRST] or now >= d[THIRD] then return false end
    d[AT], d[END] = d[FIRST], d[SECOND]
    if now >= d[SECOND] then
      key = KEYS[place + 1]
      d[AT], d[END], d[KEY] = d[SECOND], d[THIRD], key
    end
    local got = call('HMGET', key, 't', 'w:' .. worker)
    d[NEW], d[USED], d[SLOT] = not got[1], tonumber(got[1]) or 0, tonumber(got[2]) or 0
  else
    if not alive then
      alive = {}
      local seen = call('HGETALL', KEYS[3])
      for j = 1, #seen, 2 do alive[seen[j]] = now - seen[j + 1] end
      alive[worker] = 0
    end
    local counts = call('HGETALL', key)
    for j = 1, #counts, 2 do
      local quiet = alive[counts[j]]
      if quiet and quiet <= 3000 then d[USED] = d[USED] + counts[j + 1]
      elseif not quiet or quiet > 60000 then call('HDEL', key, counts[j]) end
    end
  end
  return true
end

local function most(d) -- the largest output that this draw has room for; nil where not even the least fits
  if d[OBSERVE] == 1 then return asked end
  local room = d[CAPACITY] - d[USED] - d[AMOUNT]
  if room < 0 then return nil end
  if d[PER] == 0 then return asked end
  local m = floor(room / d[PER])
  if m < least then return nil end
  return m
end

local function reset(d) -- ms until the least fits, endless where it never will
  local need = d[AMOUNT] + d[PER] * least
  if need > d[CAPACITY] then return math.huge end
  if d[KIND] == 3 then return 1000 end
  if d[KIND] == 2 then return d[END] - now end
  local w, head, slots = d[FIRST], d[AT], {}
  for b = head - 60, head do slots[#slots + 1] = b % 61 end
  local freed, wanted = 0, d[USED] + need - d[CAPACITY]
  for j, v in ipairs(call('HMGET', d[KEY], unpack(slots))) do
    freed = freed + (tonumber(v) or 0)
    if freed >= wanted then return ceil((head + j) * w / 60) - now end
  end
  return ceil((head + 61) * w / 60) - now
end

local output, worst, worst_reset, i = asked, nil, -1, 1
while i <= n do
  local d = draws[i]
  if d[SET] == 0 then
    if not read(d) then return pack('<Bi8', 3, now) end
    local m = most(d)
    if m then
      d[CHARGED] = true
      if m < output then output = m end
    else
      local wait = reset(d)
      if wait > worst_reset then worst, worst_reset = i, wait end
    end
    i = i + 1
  else -- any-of: the first alternative of which every draw has room
    local set, chosen, nearest, nearest_reset = d[SET], false, nil, nil
    while i <= n and draws[i][SET] == set do
      local alternative, fits, start, late, late_reset = draws[i][ALTERNATIVE], asked, i, nil, -1
      while i <= n and draws[i][SET] == set and draws[i][ALTERNATIVE] == alternative do
        if not chosen then
          d = draws[i]
          if not read(d) then return pack('<Bi8', 3, now) end
          local m = most(d)
          if not m then
            local wait = reset(d)
            if wait > late_reset then late, late_reset = i, wait end
          elseif m < fits then fits = m end
        end
        i = i + 1
      end
      if not chosen then
        if not late then
          chosen = true
          for j = start, i - 1 do draws[j][CHARGED] = true end
          if fits < output then output = fits end
        elseif not nearest or late_reset < nearest_reset then nearest, nearest_reset = late, late_reset end
      end
    end
    if not chosen and nearest_reset > worst_reset then worst, worst_reset = nearest, nearest_reset end
  end
end

if worst then
  local d, wait = draws[worst], worst_reset
  local left = d[CAPACITY] - d[USED]
  if left < 0 then left = 0 end
  if wait == math.huge then wait = -1 end
  return pack('<Bi8i8i8i8i8', 0, now, worst - 1, left, wait, d[AMOUNT] + d[PER] * least)
end

local held = ''
local reply = pack('<Bi8i8i8', 1, now, call('INCR', KEYS[2]), output)
for j = 1, n do
  local d = draws[j]
  if d[CHARGED] then
    local take = d[AMOUNT] + d[PER] * output
    local total, key, kind, wait = d[USED] + take, d[KEY], d[KIND], 0
    if kind == 1 then
      local w, head = d[FIRST], d[AT]
      if d[NEW] then
        call('HSET', key, 'h', head, 't', total, head % 61, d[SLOT] + take)
        call('PEXPIRE', key, w + ceil(w / 20) + 1000)
      else
        call('HSET', key, 't', total, head % 61, d[SLOT] + take)
      end
      wait = ceil((head + 61) * w / 60) - now
    elseif kind == 2 then
      call('HSET', key, 't', total, 'w:' .. worker, d[SLOT] + take)
      if d[NEW] then call('PEXPIRE', key, math.min(d[END] - now + 259200000, 315360000000)) end
      wait = d[END] - now
    else
      call('HINCRBY', key, worker, 1)
      call('PEXPIRE', key, 86400000)
    end
    reply = reply .. pack('<i8i8i8', d[AT], d[CAPACITY] - total, wait)
    if lasting and kind ~= 3 then
      local w = kind == 1 and d[FIRST] or d[END] - d[AT]
      held = held .. pack('<Bi8i8i8I4', kind, d[AT], w, take, #key) .. key
    end
  else
    reply = reply .. pack('<i8i8i8', -1, 0, 0)
  end
end
if claim then
  call('SET', claim, 'f' .. digest, 'PX', 86400000)
  held = held .. pack('<Bi8i8i8I4', 4, 0, 0, 0, #claim) .. claim
end
if held ~= '' then
  if step > 0 then held = (call('HGET', KEYS[4], memory) or '') .. held end
  call('HSET', KEYS[4], memory, held)
  call('PEXPIRE', KEYS[4], 259200000)
end
call('SET', memory, mark .. reply, 'PX', 60000)
return reply
