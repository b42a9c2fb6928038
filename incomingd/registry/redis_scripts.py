"""The store's single steps as Lua, which Redis runs one after the other.

Every key that a script touches is named in its call, and lies in one hash slot.
Time is the server's own (`TIME`), so instances need no common clock. Names,
start ids, epochs and uploads' ids have their fixed places in every value
(:mod:`incomingd.registry.values`); what cannot be read counts as missing.
"""

from __future__ import annotations

from typing import Final

_READ_ENTRY = """
local function read_entry(key)
  local value = redis.call('GET', key)
  if not value then return nil end
  local readable, entry = pcall(cjson.decode, value)
  if not readable or type(entry) ~= 'table' or type(entry.epoch) ~= 'number' then return nil end
  return entry, value
end
"""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

RENEW: Final = (
    _NOW
    + """
local state, leases, running_until, inbox = unpack(KEYS)
local lease_id, value, lease_ms, fresh, keep_ms, channel = unpack(ARGV)
local changed = false
for _, lapsed in ipairs(redis.call('ZRANGEBYSCORE', running_until, '-inf', now)) do
  redis.call('HDEL', leases, lapsed)
  redis.call('ZREM', running_until, lapsed)
  changed = true
end
if redis.call('HGET', leases, lease_id) ~= value then
  redis.call('HSET', leases, lease_id, value)
  changed = true
end
redis.call('ZADD', running_until, now + lease_ms, lease_id)
if not redis.call('HGET', state, 'generation') then
  redis.call('HSET', state, 'format', '1', 'generation', fresh)
  changed = true
end
if changed then
  redis.call('HSET', state, 'stamp', fresh)
  redis.call('PUBLISH', channel, '')
end
for _, key in ipairs({state, leases, running_until}) do redis.call('PEXPIRE', key, keep_ms) end
return {
  redis.call('HGET', state, 'generation'),
  redis.call('HGET', state, 'stamp') or '',
  redis.call('HLEN', inbox),
  string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '',
}
"""
)
"""KEYS: state, leases, until, inbox. ARGV: lease id, value, lease (ms), fresh id, keep (ms), channel."""

LEASES: Final = (
    _NOW
    + """
local found = {}
for _, lease_id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')) do
  local value = redis.call('HGET', KEYS[1], lease_id)
  if value then
    found[#found + 1] = lease_id
    found[#found + 1] = value
  end
end
return found
"""
)
"""KEYS: leases, until."""

LEAVE: Final = """
local state, leases, running_until, inbox = unpack(KEYS)
local lease_id, fresh, channel = unpack(ARGV)
redis.call('DEL', inbox)
redis.call('ZREM', running_until, lease_id)
if redis.call('HDEL', leases, lease_id) == 1 then
  if redis.call('HGET', state, 'generation') then redis.call('HSET', state, 'stamp', fresh) end
  redis.call('PUBLISH', channel, '')
end
"""
"""KEYS: state, leases, until, inbox. ARGV: lease id, fresh id, channel."""

PUBLISH: Final = (
    _READ_ENTRY
    + """
local stands, as_kept = read_entry(KEYS[1])
local value, name, start_id, epoch, keep_ms = unpack(ARGV)
epoch = tonumber(epoch)
if stands then
  local same_run = stands.name == name and stands.start_id == start_id
  if stands.epoch > epoch or (stands.epoch == epoch and not same_run) then return as_kept end
end
redis.call('SET', KEYS[1], value, 'PX', keep_ms)
return false
"""
)
"""KEYS: entry. ARGV: value, name, start id, epoch, keep (ms). Returns what stands against it."""

CORRECT: Final = (
    _READ_ENTRY
    + """
local stands, as_kept = read_entry(KEYS[1])
local name, start_id, epoch, value, keep_ms = unpack(ARGV)
if stands and not (stands.name == name and stands.start_id == start_id and stands.epoch == tonumber(epoch)) then
  return as_kept
end
if value == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], value, 'PX', keep_ms)
end
return false
"""
)
"""KEYS: entry. ARGV: name, start id, epoch of the wrong one; value (or empty), keep (ms). Returns what else stands."""

RELEASE: Final = (
    _READ_ENTRY
    + """
local stands = read_entry(KEYS[1])
local name, start_id, epoch = unpack(ARGV)
if stands and stands.name == name and stands.start_id == start_id and stands.epoch <= tonumber(epoch) then
  redis.call('DEL', KEYS[1])
end
"""
)
"""KEYS: entry. ARGV: name, start id, epoch."""

BIND_KEY: Final = """
local value, upload_id, instead_of, keep_ms = unpack(ARGV)
local stands = redis.call('GET', KEYS[1])
if stands then
  local readable, entry = pcall(cjson.decode, stands)
  local leads_to = readable and type(entry) == 'table' and type(entry.upload_id) == 'string' and entry.upload_id
  if leads_to and leads_to ~= upload_id and leads_to ~= instead_of then return stands end
end
redis.call('SET', KEYS[1], value, 'PX', keep_ms)
return false
"""
"""KEYS: key. ARGV: value, upload id, id of the one to replace (or empty), keep (ms). Returns what stands against it."""

INVITE: Final = """
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
"""
"""KEYS: inbox. ARGV: keep (ms), channel, lease id, then upload id and value of each."""

TAKE: Final = """
local all, taken = redis.call('HGETALL', KEYS[1]), {}
for i = 1, math.min(#all, 2 * ARGV[1]), 2 do
  taken[i], taken[i + 1] = all[i], all[i + 1]
  redis.call('HDEL', KEYS[1], all[i])
end
return taken
"""
"""KEYS: inbox. ARGV: how many at most."""
