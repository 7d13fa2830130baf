-- Decide all limits and budgets of a request, all or nothing; a refusal changes no count.
-- KEYS: epoch, sequence, live workers, the draws' counters, memory of the request [, idempotency claim]
-- ARGV[1] (msgpack): a list of draws {kind, amount class, per token, capacity, key, set, alternative, observe,
--   window | start, end, end of the next period}; kinds: 1 sliding, 2 period (two keys: present, next), 3 concurrency
-- ARGV[2] (msgpack): {epoch, worker, step, output asked, least output, prompt tokens, money, digest of the body}
-- Reply (msgpack): {1, ms, sequence, output, positions, remaining, resets in ms}
--   | {0, ms, draw, remaining, reset in ms or -1 for never, needed} | {2, ms} lost | {3, ms} edges are out of date
--   | {4, ms, reason} claimed | {5, ms} ended
local ask = cmsgpack.unpack(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('GET', KEYS[1]) ~= ask[1] then return cmsgpack.pack({2, now}) end
local worker, least, digest = ask[2], ask[5], ask[8]
local claim = nil
local memory = KEYS[#KEYS]
if digest ~= '' then claim = memory; memory = KEYS[#KEYS - 1] end
local mark = ask[3] .. ':'
local remembered = redis.call('GET', memory)
if remembered then
  if string.sub(remembered, 1, #mark) == mark then return string.sub(remembered, #mark + 1) end
  if remembered == 'E' or remembered == 'V' then return cmsgpack.pack({5, now}) end
end
if claim then
  local held = redis.call('GET', claim)
  if held then
    local reason = 'in_flight'
    if string.sub(held, 2) ~= digest then reason = 'other_body'
    elseif string.sub(held, 1, 1) == 'd' then reason = 'already_completed' end
    return cmsgpack.pack({4, now, reason})
  end
end

local draws = cmsgpack.unpack(ARGV[1])
local amounts = {[0] = 0, 1, ask[6], ask[7]}
local output = ask[4]
local asked = output
local used, slot, at, new, key_of, ends = {}, {}, {}, {}, {}, {}
local alive = nil

local function read(i, d)
  local kind, key = d[1], KEYS[d[5]]
  if kind == 1 then
    local w = d[9]
    local head = math.floor(now * 60 / w)
    local got = redis.call('HMGET', key, 'h', 't', head % 61)
    local h, t, c = tonumber(got[1]), tonumber(got[2]) or 0, tonumber(got[3]) or 0
    if not h then
      t, c, new[i] = 0, 0, true
    elseif head - h > 60 then
      redis.call('DEL', key)
      t, c, new[i] = 0, 0, true
    elseif head > h then
      local gone = {}
      for b = h + 1, head do gone[#gone + 1] = b % 61 end
      for _, v in ipairs(redis.call('HMGET', key, unpack(gone))) do t = t - (tonumber(v) or 0) end
      redis.call('HDEL', key, unpack(gone))
      redis.call('HSET', key, 'h', head, 't', t)
      c, new[i] = 0, true
    elseif head < h then -- the clock went back
      head = h
      c = tonumber(redis.call('HGET', key, head % 61)) or 0
    end
    used[i], slot[i], at[i], key_of[i] = t, c, head, key
  elseif kind == 2 then
    if now < d[9] or now >= d[11] then return false end
    at[i], ends[i] = d[9], d[10]
    if now >= d[10] then key = KEYS[d[5] + 1]; at[i], ends[i] = d[10], d[11] end
    local got = redis.call('HMGET', key, 't', 'w:' .. worker)
    new[i] = not got[1]
    used[i], slot[i], key_of[i] = tonumber(got[1]) or 0, tonumber(got[2]) or 0, key
  else
    if not alive then
      alive = {}
      local seen = redis.call('HGETALL', KEYS[3])
      for j = 1, #seen, 2 do alive[seen[j]] = now - tonumber(seen[j + 1]) end
      alive[worker] = 0
    end
    local sum, counts = 0, redis.call('HGETALL', key)
    for j = 1, #counts, 2 do
      local quiet = alive[counts[j]]
      if quiet and quiet <= 3000 then sum = sum + tonumber(counts[j + 1])
      elseif not quiet or quiet > 60000 then redis.call('HDEL', key, counts[j]) end
    end
    used[i], at[i], key_of[i] = sum, 0, key
  end
  return true
end

local function most(i, d) -- the largest output that this draw has room for; nil where not even the least fits
  if d[8] == 1 then return asked end
  local room = d[4] - used[i] - amounts[d[2]]
  if room < 0 then return nil end
  if d[3] == 0 then return asked end
  local m = math.floor(room / d[3])
  if m < least then return nil end
  return m
end

local function reset(i, d) -- ms until the least fits, -1 where it never will
  local need = amounts[d[2]] + d[3] * least
  if need > d[4] then return -1 end
  if d[1] == 3 then return 1000 end
  if d[1] == 2 then return ends[i] - now end
  local w, head, slots = d[9], at[i], {}
  for b = head - 60, head do slots[#slots + 1] = b % 61 end
  local freed, wanted = 0, used[i] + need - d[4]
  for j, v in ipairs(redis.call('HMGET', key_of[i], unpack(slots))) do
    freed = freed + (tonumber(v) or 0)
    if freed >= wanted then return math.ceil((head + j) * w / 60) - now end
  end
  return math.ceil((head + 61) * w / 60) - now
end

local worst, worst_reset = nil, 0
local function refuse(i, wait)
  local weight = wait
  if wait < 0 then weight = math.huge end
  if not worst or weight > worst_reset then worst, worst_reset = i, weight end
end

local charged = {}
local i, n = 1, #draws
while i <= n do
  local d = draws[i]
  if d[6] == 0 then
    if not read(i, d) then return cmsgpack.pack({3, now}) end
    local m = most(i, d)
    if not m then refuse(i, reset(i, d))
    else
      charged[i] = true
      if m < output then output = m end
    end
    i = i + 1
  else -- any-of: the first alternative of which every draw has room
    local set, chosen, nearest, nearest_reset = d[6], nil, nil, nil
    while i <= n and draws[i][6] == set do
      local alternative, fits, first, late, late_reset = draws[i][7], asked, i, nil, nil
      while i <= n and draws[i][6] == set and draws[i][7] == alternative do
        if not chosen then
          if not read(i, draws[i]) then return cmsgpack.pack({3, now}) end
          local m = most(i, draws[i])
          if not m then
            local wait = reset(i, draws[i])
            if wait < 0 then wait = math.huge end
            if not late or wait > late_reset then late, late_reset = i, wait end
          elseif m < fits then fits = m end
        end
        i = i + 1
      end
      if not chosen then
        if not late then
          chosen = alternative
          for j = first, i - 1 do charged[j] = true end
          if fits < output then output = fits end
        elseif not nearest or late_reset < nearest_reset then nearest, nearest_reset = late, late_reset end
      end
    end
    if not chosen then
      if nearest_reset == math.huge then nearest_reset = -1 end
      refuse(nearest, nearest_reset)
    end
  end
end

if worst then
  local d = draws[worst]
  if worst_reset == math.huge then worst_reset = -1 end
  local left = d[4] - used[worst]
  if left < 0 then left = 0 end
  return cmsgpack.pack({0, now, worst - 1, left, worst_reset, amounts[d[2]] + d[3] * least})
end

local positions, remaining, resets = {}, {}, {}
for j = 1, n do
  if charged[j] then
    local d = draws[j]
    local amount = amounts[d[2]] + d[3] * output
    local total, key = used[j] + amount, key_of[j]
    if d[1] == 1 then
      redis.call('HSET', key, 'h', at[j], 't', total, at[j] % 61, slot[j] + amount)
      if new[j] then redis.call('PEXPIRE', key, d[9] + math.ceil(d[9] / 20) + 1000) end
      resets[j] = math.ceil((at[j] + 61) * d[9] / 60) - now
    elseif d[1] == 2 then
      redis.call('HSET', key, 't', total, 'w:' .. worker, slot[j] + amount)
      if new[j] then redis.call('PEXPIRE', key, math.min(ends[j] - now + 259200000, 315360000000)) end
      resets[j] = ends[j] - now
    else
      redis.call('HINCRBY', key, worker, 1)
      redis.call('PEXPIRE', key, 86400000)
      resets[j] = 0
    end
    positions[j], remaining[j] = at[j], d[4] - total
  else
    positions[j], remaining[j], resets[j] = -1, 0, 0
  end
end
if claim then redis.call('SET', claim, 'f' .. digest, 'PX', 86400000) end
local reply = cmsgpack.pack({1, now, redis.call('INCR', KEYS[2]), output, positions, remaining, resets})
redis.call('SET', memory, mark .. reply, 'PX', 60000)
return reply
