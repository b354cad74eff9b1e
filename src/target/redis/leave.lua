-- KEYS: the note, then the places. ARGV: seconds of the note, the command, its words behind the place.
-- Returns 1 when it left the message, 0 when the note says that it was left before.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
-- A command that fails between two others leaves what the first one did, so all that can fail is asked first.
local needs = ({ LPUSH = 'list', RPUSH = 'list', XADD = 'stream' })[ARGV[2]]
for place = 2, #KEYS do
  if needs then
    local is = redis.call('TYPE', KEYS[place]).ok
    if is ~= 'none' and is ~= needs then
      return redis.error_reply('WRONGTYPE ' .. KEYS[place] .. ' is a ' .. is .. ', not a ' .. needs)
    end
  end
end
local words = {}
for word = 3, #ARGV do words[#words + 1] = ARGV[word] end
for place = 2, #KEYS do redis.call(ARGV[2], KEYS[place], unpack(words)) end
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
return 1
