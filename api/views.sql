-- The views that `playhead sql` offers. Amounts and positions are seconds, exact to the
-- millisecond; times are UTC. The comments are what it lists about each column.
--
-- They stand on relations in milliseconds: facts, as they are stored, and totals_progress,
-- totals_movies, totals_users, totals_hours and totals_retention, as memory has them.

CREATE TEMP MACRO seconds(ms) AS (ms * 0.001::DECIMAL(4, 3))::DECIMAL(18, 3);
CREATE TEMP MACRO moment(ms) AS make_timestamptz(ms * 1000);

CREATE TEMP VIEW events AS
SELECT
    "user",
    slug,
    session,
    moment(least(received_ms, coalesce(ts_ms, received_ms))) AS time,
    seconds(at_ms) AS at_seconds,
    seconds(duration_ms) AS duration_seconds,
    moment(received_ms) AS received,
    shard,
    sequence,
    index
FROM facts
WHERE kind = 'event';

COMMENT ON VIEW events IS 'What players sent: every event that counts';
COMMENT ON COLUMN events."user" IS 'who watched';
COMMENT ON COLUMN events.slug IS 'the movie';
COMMENT ON COLUMN events.session IS 'one playback on one device; null without';
COMMENT ON COLUMN events.time IS 'when it happened: ts, but not after received';
COMMENT ON COLUMN events.at_seconds IS 'position in the movie';
COMMENT ON COLUMN events.duration_seconds IS 'length of the movie, if this event said';
COMMENT ON COLUMN events.received IS 'when the shard took it';
COMMENT ON COLUMN events.shard IS 'which shard has it';
COMMENT ON COLUMN events.sequence IS 'its record in the log of the shard';
COMMENT ON COLUMN events.index IS 'its place in the record; (sequence, index) is the order of arrival';

CREATE TEMP VIEW changes AS
SELECT
    kind,
    "user",
    slug,
    moment(received_ms) AS time,
    seconds(at_ms) AS at_seconds,
    seconds(duration_ms) AS duration_seconds,
    title,
    shard,
    sequence,
    index
FROM facts
WHERE kind <> 'event';

COMMENT ON VIEW changes IS 'What was changed by hand';
COMMENT ON COLUMN changes.kind IS 'position, completed, uncompleted, hidden, or movie: an entry of the catalogue';
COMMENT ON COLUMN changes."user" IS 'whose; null for movie';
COMMENT ON COLUMN changes.slug IS 'the movie';
COMMENT ON COLUMN changes.time IS 'when';
COMMENT ON COLUMN changes.at_seconds IS 'the position that was set';
COMMENT ON COLUMN changes.duration_seconds IS 'the length that the catalogue was given';
COMMENT ON COLUMN changes.title IS 'the title that the catalogue was given';
COMMENT ON COLUMN changes.shard IS 'which shard has it; each has entries of the catalogue';
COMMENT ON COLUMN changes.sequence IS 'its record in the log of the shard';
COMMENT ON COLUMN changes.index IS 'its place in the record';

CREATE TEMP VIEW progress AS
SELECT
    "user",
    slug,
    seconds(watch_ms) AS watch_seconds,
    seconds(unique_ms) AS unique_seconds,
    seconds(latest_ms) AS latest_seconds,
    moment(latest_t) AS latest_time,
    seconds(furthest_ms) AS furthest_seconds,
    seconds(resume_ms) AS resume_seconds,
    completed_t IS NOT NULL AS completed,
    moment(completed_t) AS completed_time,
    begun_again,
    hidden,
    views,
    events,
    seconds(duration_ms) AS duration_seconds,
    version
FROM totals_progress;

COMMENT ON VIEW progress IS 'One row a user and movie';
COMMENT ON COLUMN progress."user" IS 'who watched';
COMMENT ON COLUMN progress.slug IS 'the movie';
COMMENT ON COLUMN progress.watch_seconds IS 'watch time; what was watched again counts again';
COMMENT ON COLUMN progress.unique_seconds IS 'what was watched at least once';
COMMENT ON COLUMN progress.latest_seconds IS 'latest moment: the position';
COMMENT ON COLUMN progress.latest_time IS 'latest moment: when';
COMMENT ON COLUMN progress.furthest_seconds IS 'the highest position ever';
COMMENT ON COLUMN progress.resume_seconds IS 'where to go on; 0 is from the start';
COMMENT ON COLUMN progress.completed IS 'watched to the end, or marked as watched';
COMMENT ON COLUMN progress.completed_time IS 'since when; null if not completed';
COMMENT ON COLUMN progress.begun_again IS 'watched again after it was completed';
COMMENT ON COLUMN progress.hidden IS 'left out of the continue list';
COMMENT ON COLUMN progress.views IS 'how often it was started, or gone on with after a break';
COMMENT ON COLUMN progress.events IS 'events; 0 if all was by hand';
COMMENT ON COLUMN progress.duration_seconds IS 'length of the movie: as the user''s events said, else the catalogue';
COMMENT ON COLUMN progress.version IS 'changes so far; the ETag';

CREATE TEMP VIEW movies AS
SELECT
    slug,
    title,
    seconds(watch_ms) AS watch_seconds,
    viewers,
    views,
    completions,
    events,
    seconds(duration_ms) AS duration_seconds,
    moment(first_t) AS first_event,
    moment(last_t) AS last_event
FROM totals_movies;

COMMENT ON VIEW movies IS 'One row a movie';
COMMENT ON COLUMN movies.slug IS 'the movie';
COMMENT ON COLUMN movies.title IS 'of the catalogue';
COMMENT ON COLUMN movies.watch_seconds IS 'watch time of all users';
COMMENT ON COLUMN movies.viewers IS 'users with an event';
COMMENT ON COLUMN movies.views IS 'sum over users';
COMMENT ON COLUMN movies.completions IS 'users who completed it';
COMMENT ON COLUMN movies.events IS 'sum over users';
COMMENT ON COLUMN movies.duration_seconds IS 'of the catalogue';
COMMENT ON COLUMN movies.first_event IS 'when the first event happened';
COMMENT ON COLUMN movies.last_event IS 'when the last event happened';

CREATE TEMP VIEW users AS
SELECT
    "user",
    seconds(watch_ms) AS watch_seconds,
    movies,
    completed,
    events,
    moment(last_t) AS last_event
FROM totals_users;

COMMENT ON VIEW users IS 'One row a user';
COMMENT ON COLUMN users."user" IS 'who';
COMMENT ON COLUMN users.watch_seconds IS 'watch time of all movies';
COMMENT ON COLUMN users.movies IS 'movies begun, or changed by hand';
COMMENT ON COLUMN users.completed IS 'movies completed';
COMMENT ON COLUMN users.events IS 'sum over movies';
COMMENT ON COLUMN users.last_event IS 'when the last event happened';

CREATE TEMP VIEW hours AS
SELECT slug, moment(hour * 3600000) AS hour, seconds(watch_ms) AS watch_seconds
FROM totals_hours;

COMMENT ON VIEW hours IS 'Watch time of movies by the hour; of days long past, by the day';
COMMENT ON COLUMN hours.slug IS 'the movie';
COMMENT ON COLUMN hours.hour IS 'when the hour began; a whole day stands at its first hour';
COMMENT ON COLUMN hours.watch_seconds IS 'watch time of all users; hours without any are left out';

CREATE TEMP VIEW retention AS
SELECT slug, bucket, seconds(bucket * 10000) AS start_seconds, viewers, plays
FROM totals_retention;

COMMENT ON VIEW retention IS 'Which parts of a movie were watched, in steps of 10 seconds';
COMMENT ON COLUMN retention.slug IS 'the movie';
COMMENT ON COLUMN retention.bucket IS 'the part: 0 is the first 10 seconds';
COMMENT ON COLUMN retention.start_seconds IS 'where the part begins';
COMMENT ON COLUMN retention.viewers IS 'users who watched in it; parts without any are left out';
COMMENT ON COLUMN retention.plays IS 'how often it was watched, again counted again';
