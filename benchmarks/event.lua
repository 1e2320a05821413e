-- wrk: one event a request, as a fleet of players sends them.
local letters = "0123456789abcdefghijklmnopqrstuvwxyz"

local function name(length)
  local characters = {}
  for i = 1, length do
    local k = math.random(#letters)
    characters[i] = letters:sub(k, k)
  end
  return table.concat(characters)
end

local users, slugs = {}, {}
for i = 1, 10000 do users[i] = name(12) end
for i = 1, 500 do slugs[i] = name(13) end

local headers = { ["Content-Type"] = "application/json" }

function request()
  local body = string.format(
    '{"user": "%s", "slug": "%s", "at": %d}',
    users[math.random(#users)], slugs[math.random(#slugs)], math.random(0, 7200)
  )
  return wrk.format("POST", "/", headers, body)
end
