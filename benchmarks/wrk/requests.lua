-- wrk: sends the requests of a file in turn, from an offset on, and again from the start.
-- Arguments: the file, as benchmarks/request_file.py writes it, and the offset.
local file

function init(arguments)
  file = assert(io.open(arguments[1], "rb"))
  file:seek("set", tonumber(arguments[2]))
end

function request()
  local size = file:read("*l")
  if not size then
    file:seek("set", 0)
    size = file:read("*l")
  end
  return file:read(tonumber(size))
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "errors": %d, "p50_us": %d, "p99_us": %d, "p999_us": %d}\n',
    summary.requests, summary.duration, failed,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)
  ))
end
