"""The server functions of the index, and their names.

Each runs alone in the server. Its keys are declared and lie in one slot. The name of the
library has a digest of its text, so that processes of two releases can share a
server: each loads and calls its own.

Fields of a registry:

| field | holds |
|---|---|
| `i` | the incarnation |
| `n` | number of the latest epoch |
| `x` | index of the latest entry of the stream |
| `e<bit>` | an epoch: `number:deadline in ms:holder` |
| `q<bit>` | seq of the latest change of that epoch in the stream |
| `d<bit>` | number of an epoch that has ended and may be left in entries |
| `o` | entries of lost incarnations may be there |
| `s` | the scrub under way: `token:deadline in ms:state` |

Numbers and indices begin at the server's time in us, so that those of a registry that
was lost do not come again.
"""

import hashlib

_BODY = """
local ENDED = 'EPOCHENDED the epoch has ended'

local function text(n) return string.format('%.0f', n) end

local function now_us()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function now_ms() return math.floor(now_us() / 1000) end

local function fields_of(registry)
  local flat, fields = redis.call('HGETALL', registry), {}
  for k = 1, #flat, 2 do fields[flat[k]] = flat[k + 1] end
  return fields
end

local function split(epoch)
  local number, deadline, holder = string.match(epoch, '^(%d+):(%d+):(.*)$')
  return tonumber(number), tonumber(deadline), holder
end

local function emit(keys, max_length, payload)
  local index = text(redis.call('HINCRBY', keys[1], 'x', 1))
  redis.call('XADD', keys[2], 'MAXLEN', '~', max_length, index .. '-0', 'v', payload)
end

local function end_epoch(keys, bit_index, number, max_length)
  redis.call('HDEL', keys[1], 'e' .. bit_index, 'q' .. bit_index)
  redis.call('HSET', keys[1], 'd' .. bit_index, text(number))
  emit(keys, max_length, struct.pack('<BI2I8', 2, tonumber(bit_index), number))
end

-- Ends epochs whose lease is over, and those of `holder`.
local function end_over(keys, fields, holder, max_length)
  local now = now_ms()
  for name, value in pairs(fields) do
    if string.sub(name, 1, 1) == 'e' then
      local number, deadline, its_holder = split(value)
      if deadline < now or its_holder == holder then
        end_epoch(keys, string.sub(name, 2), number, max_length)
      end
    end
  end
end

local function is_live(keys, bit_index, number)
  local epoch = redis.call('HGET', keys[1], 'e' .. bit_index)
  return epoch and (split(epoch)) == tonumber(number)
end

-- keys: registry, stream; args: holder, lease in ms, a new incarnation, most bits,
-- stream's length. Returns incarnation, bit, number.
local function begin(keys, args)
  if redis.call('HEXISTS', keys[1], 'i') == 0 then
    local now = text(now_us())
    redis.call('DEL', keys[1], keys[2])
    redis.call('HSET', keys[1], 'i', args[3], 'n', now, 'x', now, 'o', '1')
  end
  local fields = fields_of(keys[1])
  local free = 0
  while fields['e' .. free] or fields['d' .. free] do free = free + 1 end
  if free >= tonumber(args[4]) then return redis.error_reply('NOBIT all bits are taken') end
  end_over(keys, fields, args[1], args[5])
  local number = math.max(tonumber(fields['n']) + 1, now_us())
  local deadline = now_ms() + tonumber(args[2])
  redis.call('HSET', keys[1], 'n', text(number),
    'e' .. free, text(number) .. ':' .. text(deadline) .. ':' .. args[1])
  emit(keys, args[5], struct.pack('<BI2I8', 1, free, number) .. args[1])
  return {fields['i'], free, text(number)}
end

-- keys: registry, stream; args: bit, number, lease in ms, stream's length.
local function renew(keys, args)
  end_over(keys, fields_of(keys[1]), nil, args[4])
  local epoch = redis.call('HGET', keys[1], 'e' .. args[1])
  if not is_live(keys, args[1], args[2]) then return redis.error_reply(ENDED) end
  local _, _, holder = split(epoch)
  local deadline = text(now_ms() + tonumber(args[3]))
  redis.call('HSET', keys[1], 'e' .. args[1], args[2] .. ':' .. deadline .. ':' .. holder)
  return 1
end

-- keys: registry, stream; args: bit, number, stream's length.
local function finish(keys, args)
  if not is_live(keys, args[1], args[2]) then return 0 end
  end_epoch(keys, args[1], tonumber(args[2]), args[3])
  return 1
end

-- keys: registry, stream; args: stream's length. Returns incarnation and latest index.
local function sweep(keys, args)
  local fields = fields_of(keys[1])
  if not fields['i'] then return {'', '0'} end
  end_over(keys, fields, nil, args[1])
  return {fields['i'], redis.call('HGET', keys[1], 'x')}
end

-- keys: registry, stream; args: bit, number, stream's length, first seq, payloads.
local function append(keys, args)
  if not is_live(keys, args[1], args[2]) then return redis.error_reply(ENDED) end
  local last = tonumber(redis.call('HGET', keys[1], 'q' .. args[1]) or '-1')
  local first = tonumber(args[4])
  for k = 5, #args do
    local seq = first + k - 5
    if seq > last then
      emit(keys, args[3], args[k])
      last = seq
    end
  end
  redis.call('HSET', keys[1], 'q' .. args[1], text(last))
  return #args - 4
end

local function with_bit(old, width, place, flag)
  if #old < width then old = old .. string.rep('\\0', width - #old) end
  local byte = string.byte(old, place)
  if bit.band(byte, flag) ~= 0 then return old end
  return string.sub(old, 1, place - 1) .. string.char(byte + flag) .. string.sub(old, place + 1)
end

-- nil where nothing is left.
local function without_bits(old, mask)
  local left, any = {}, 0
  for k = 1, #old do
    left[k] = bit.band(string.byte(old, k), bit.bnot(string.byte(mask, k) or 0))
    any = bit.bor(any, left[k])
  end
  if any == 0 then return nil end
  return string.char(unpack(left))
end

-- Clears the bits of `mask` in entries `first` to #keys.
local function clear(keys, first, last, values, mask)
  local gone, known, changed = {}, {}, 0
  for k = first, last do
    local old = values[k]
    if old then
      if known[old] == nil then known[old] = without_bits(old, mask) or false end
      local left = known[old]
      if not left then
        gone[#gone + 1] = keys[k]
      elseif left ~= old then
        redis.call('SET', keys[k], left, 'KEEPTTL')
        changed = changed + 1
      end
    end
  end
  if #gone > 0 then redis.call('DEL', unpack(gone)) end
  return changed + #gone
end

local function mask_of(place, flag)
  return string.rep('\\0', place - 1) .. string.char(flag)
end

local function write_all(pairs_of, ttl_ms)
  if #pairs_of == 0 then return end
  if ttl_ms == '0' then
    redis.call('MSET', unpack(pairs_of))
    return
  end
  for k = 1, #pairs_of, 2 do
    redis.call('SET', pairs_of[k], pairs_of[k + 1], 'PX', ttl_ms)
  end
end

-- keys: fence, entries; args: bit, number, how many of the entries to set (the others
-- are cleared), time to live in ms (0: none). Returns how many were written.
local function mark(keys, args)
  local fence = redis.call('HGET', keys[1], args[1])
  if fence and tonumber(fence) >= tonumber(args[2]) then return redis.error_reply(ENDED) end
  local index, num_set = tonumber(args[1]), tonumber(args[3])
  local place, flag = math.floor(index / 8) + 1, 2 ^ (index % 8)
  local width = 8
  while width < place do width = width * 2 end
  local values = redis.call('MGET', unpack(keys))
  local written, known = {}, {}
  for k = 2, num_set + 1 do
    local old = values[k] or ''
    local new = known[old]
    if not new then
      new = with_bit(old, width, place, flag)
      known[old] = new
    end
    if new ~= old or args[4] ~= '0' then
      written[#written + 1] = keys[k]
      written[#written + 1] = new
    end
  end
  write_all(written, args[4])
  local num_cleared = clear(keys, num_set + 2, #keys, values, mask_of(place, flag))
  return #written / 2 + num_cleared
end

-- keys: fence; args: bit, number, bit, number ...: writes of those epochs, and of
-- earlier ones with the bit, are refused from here on.
local function fence(keys, args)
  for k = 1, #args, 2 do
    local old = tonumber(redis.call('HGET', keys[1], args[k]) or '0')
    if tonumber(args[k + 1]) > old then redis.call('HSET', keys[1], args[k], args[k + 1]) end
  end
  return 1
end

-- keys: entries; args: mask of the bits to clear. Returns how many were written.
local function scrub(keys, args)
  return clear(keys, 1, #keys, redis.call('MGET', unpack(keys)), args[1])
end

-- keys: registry; args: token, lease in ms. Takes the scrub over, if nobody has it.
-- Returns the state that was saved last, '' where there is none, nil where it is taken.
local function scrub_take(keys, args)
  local taken = redis.call('HGET', keys[1], 's')
  local state = ''
  if taken then
    local token, deadline, saved = string.match(taken, '^([^:]*):(%d+):(.*)$')
    if token ~= args[1] and tonumber(deadline) >= now_ms() then return false end
    state = saved
  end
  if redis.call('HEXISTS', keys[1], 'i') == 0 then return false end
  local deadline = text(now_ms() + tonumber(args[2]))
  redis.call('HSET', keys[1], 's', args[1] .. ':' .. deadline .. ':' .. state)
  return state
end

-- keys: registry; args: token, lease in ms, state. 0 where another one has it.
local function scrub_save(keys, args)
  local taken = redis.call('HGET', keys[1], 's')
  if not taken or string.match(taken, '^[^:]*') ~= args[1] then return 0 end
  local deadline = text(now_ms() + tonumber(args[2]))
  redis.call('HSET', keys[1], 's', args[1] .. ':' .. deadline .. ':' .. args[3])
  return 1
end

-- keys: registry; args: token, bit, number, bit, number ...: those bits are in no entry.
local function scrub_done(keys, args)
  local taken = redis.call('HGET', keys[1], 's')
  if not taken or string.match(taken, '^[^:]*') ~= args[1] then return 0 end
  for k = 2, #args, 2 do
    local name = 'd' .. args[k]
    local number = redis.call('HGET', keys[1], name)
    if number == args[k + 1] then redis.call('HDEL', keys[1], name) end
  end
  redis.call('HDEL', keys[1], 's', 'o')
  return 1
end
"""

# Functions that give room back, or are needed to do so, run in a full server too.
_FLAGS = {
    "begin": "",
    "renew": "'allow-oom'",
    "finish": "'allow-oom'",
    "sweep": "'allow-oom'",
    "append": "",
    "mark": "",
    "fence": "'allow-oom'",
    "scrub": "'allow-oom'",
    "scrub_take": "'allow-oom'",
    "scrub_save": "'allow-oom'",
    "scrub_done": "'allow-oom'",
}

LIBRARY_NAME = "coterie_index_" + hashlib.blake2b(_BODY.encode(), digest_size=4).hexdigest()


def function_name(name: str) -> bytes:
    """What the server calls the function."""
    assert name in _FLAGS
    return f"{LIBRARY_NAME}_{name}".encode()


def _registration(name: str) -> str:
    called = function_name(name).decode()
    return (
        f"redis.register_function{{function_name='{called}', callback={name}, "
        f"flags={{{_FLAGS[name]}}}}}"
    )


LIBRARY_TEXT = "\n".join(
    [f"#!lua name={LIBRARY_NAME}", _BODY, *(_registration(name) for name in _FLAGS)]
)
"""What FUNCTION LOAD takes."""

REQUIRED_COMMANDS = (
    "fcall function|load mget scan hgetall xread info cluster|slots cluster|shards "
    "command ping get set mset del hget hset hdel hexists hincrby xadd time"
)
"""What an ACL user must be allowed, on keys `{ci*`."""
