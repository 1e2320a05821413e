-- The rules of watch time over stored facts: what docs/watch-time.md says, in SQL.
--
-- The third form of the rules, beside aggregator/reference.py (one event at a time) and
-- aggregator/state.py (batches of columns). All three must come to the same numbers.
--
-- aggregator/sql_rules.py runs it in an empty database that has these macros:
--
--   facts()          a row a fact, with its shard. (sequence, index) is the order of arrival in
--                    a shard, and a user's facts are all in one shard
--   max_gap_ms(), idle_ms(), complete_parts(), by_position()    the settings of the rules
--   complete_tail_ms(), resume_parts(), parts(), bucket_ms()    what they share with other code
--   fold_before()    the first hour that counts as an hour and not as its day
--
-- Milliseconds and integers throughout. Sums are made BIGINT again, which fails where it would
-- lose a digit.


-- What a fact is about --------------------------------------------------------------------------

-- A number for each user and movie, so that all that follows sorts by numbers and not by names.
CREATE TABLE pairs AS
SELECT row_number() OVER () AS pair, shard, "user", slug
FROM (SELECT DISTINCT shard, "user", slug FROM facts() WHERE kind <> 'movie');

-- What happened to each pair, in order of arrival: `place` counts from 1.
-- The time of an event is min(ts, received), that of a change by hand is received.
CREATE TABLE happened AS
WITH timed AS (
    SELECT
        pair, f.shard, f.slug, f.sequence, f.index, session, at_ms, duration_ms,
        least(f.received_ms, coalesce(f.ts_ms, f.received_ms)) AS t,
        kind = 'event' AS is_event,
        CASE WHEN kind <> 'event' THEN kind END AS change
    FROM facts() AS f
    JOIN pairs AS p ON p.shard = f.shard AND p."user" = f."user" AND p.slug = f.slug
)
SELECT
    * EXCLUDE (duration_ms),
    row_number() OVER arrival AS place,
    -- The last duration that the pair's own events gave, this one included.
    last_value(duration_ms IGNORE NULLS) OVER arrival AS own_duration_ms
FROM timed
WINDOW arrival AS (PARTITION BY pair ORDER BY sequence, index);

CREATE TABLE catalogue AS
SELECT shard, slug, sequence, index, received_ms, duration_ms, title
FROM facts()
WHERE kind = 'movie';

-- The catalogue as it is now. Each shard has its own copy.
CREATE VIEW catalogue_now AS
SELECT *
FROM catalogue
QUALIFY row_number() OVER (PARTITION BY shard, slug ORDER BY sequence DESC, index DESC) = 1;


-- Streams, runs, credit: rules 1 to 4 -----------------------------------------------------------

-- A stream is the sequence of events of one user, movie and session; no session is one of them.
-- `last_t` and `last_at_ms` are those of the stream before the event. Late events move neither:
-- their t is no maximum, and the position before is looked for among those that are not late.
CREATE TABLE steps AS
WITH after AS (
    SELECT
        pair, session, place, t, at_ms,
        max(t) OVER (
            PARTITION BY pair, session ORDER BY place
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS last_t
    FROM happened
    WHERE is_event
),

stepped AS (
    SELECT
        *,
        coalesce(t < last_t, false) AS is_late,
        lag(at_ms) OVER (
            PARTITION BY pair, session, coalesce(t < last_t, false) ORDER BY place
        ) AS last_at_ms
    FROM after
),

ruled AS (
    SELECT
        *,
        last_t IS NULL AS is_first,                                                          -- 1
        coalesce(t - last_t > idle_ms(), false) AS is_idle,                     -- 3
        coalesce(at_ms - last_at_ms BETWEEN 0 AND max_gap_ms(), false)
            AS is_near                                                                       -- 4
    FROM stepped
)

SELECT
    pair, session, place, t, at_ms, last_at_ms, is_late,
    is_first OR is_idle AS opens_view,
    NOT is_late AND (is_first OR is_idle OR NOT is_near) AS opens_run,
    CASE
        WHEN NOT by_position() THEN at_ms
        WHEN is_late OR is_first OR is_idle OR NOT is_near THEN 0                            -- 2
        ELSE at_ms - last_at_ms
    END AS credit_ms
FROM ruled;

-- A run begins with an event that opens one, and ends at the position before the next that does,
-- or at the last position of its stream. Runs of length 0 cover nothing.
CREATE TABLE runs AS
WITH ends AS (
    SELECT pair, session, arg_max(at_ms, place) AS end_ms
    FROM steps
    WHERE NOT is_late
    GROUP BY ALL
),

opened AS (
    SELECT
        pair, session, at_ms AS start_ms,
        lead(last_at_ms) OVER (PARTITION BY pair, session ORDER BY place) AS next_end_ms
    FROM steps
    WHERE opens_run
),

closed AS (
    SELECT o.pair, start_ms, coalesce(next_end_ms, e.end_ms) AS end_ms
    FROM opened AS o
    JOIN ends AS e ON e.pair = o.pair AND e.session IS NOT DISTINCT FROM o.session
)

SELECT * FROM closed WHERE end_ms > start_ms AND by_position();


-- A user and a movie ----------------------------------------------------------------------------

CREATE MACRO is_complete(at_ms, duration_ms) AS
    at_ms * parts() >= complete_parts() * duration_ms
    OR duration_ms - at_ms <= complete_tail_ms();

CREATE MACRO resume_ms(latest_ms, duration_ms) AS CASE
    WHEN latest_ms * parts() < resume_parts() * duration_ms THEN 0
    WHEN is_complete(latest_ms, duration_ms) THEN 0
    ELSE latest_ms
END;

-- Watch time and views.
CREATE TABLE watched AS
SELECT pair, sum(credit_ms)::BIGINT AS watch_ms, count(*) FILTER (opens_view) AS views
FROM steps
GROUP BY pair;

-- The runs of a pair by their start. Up to `covered_ms`, the furthest end of those before it, a
-- run covers no new ground. The first one has no such end, and greatest() passes nulls over.
CREATE TABLE ground AS
SELECT
    pair, start_ms, end_ms,
    max(end_ms) OVER (
        PARTITION BY pair ORDER BY start_ms
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS covered_ms
FROM runs;

-- Unique time: the length of the union of all runs.
CREATE VIEW uniquely AS
SELECT pair, sum(greatest(end_ms - greatest(start_ms, covered_ms), 0))::BIGINT AS unique_ms
FROM ground
GROUP BY pair;

-- Furthest and latest moment, hidden, duration, version.
CREATE TABLE moments AS
SELECT
    pair,
    count(*) AS version,
    count(*) FILTER (is_event) AS events,
    min(t) FILTER (is_event) AS first_t,
    max(t) FILTER (is_event) AS last_t,
    max(at_ms) FILTER (is_event) AS furthest_ms,
    -- Also by a position set by hand, or by a mark "watched" of what was never watched, which is
    -- at the start. Of equal times, what arrived later.
    max((t, place, coalesce(at_ms, 0))) FILTER (
        is_event OR change = 'position' OR (change = 'completed' AND place = 1)
    ) AS latest,
    coalesce(
        max(place) FILTER (change = 'hidden') > coalesce(max(place) FILTER (is_event), 0), false
    ) AS hidden,
    arg_max(own_duration_ms, place) AS own_duration_ms
FROM happened
GROUP BY pair;

-- What completes a pair: an event past the threshold of the duration known then, which is the
-- pair's own or else the catalogue's at that moment; or a mark by hand. Only marks do when `at`
-- is no position.
CREATE VIEW completing AS
WITH known AS (
    SELECT pair, place, t, at_ms, own_duration_ms AS duration_ms
    FROM happened
    WHERE is_event AND own_duration_ms IS NOT NULL
    UNION ALL
    SELECT pair, place, t, at_ms, c.duration_ms
    FROM happened AS h
    ASOF JOIN catalogue AS c
        ON c.shard = h.shard AND c.slug = h.slug
        AND (h.sequence, h.index) >= (c.sequence, c.index)
    WHERE is_event AND own_duration_ms IS NULL
)

SELECT pair, place, t
FROM known
WHERE is_complete(at_ms, duration_ms) AND by_position()
UNION ALL
SELECT pair, place, t FROM happened WHERE change = 'completed';

-- Completed: latched by the first of these after the last mark "unwatched".
CREATE TABLE completed AS
WITH taken_back AS (
    SELECT pair, max(place) AS place FROM happened WHERE change = 'uncompleted' GROUP BY pair
)

SELECT c.pair, min(c.place) AS place, arg_min(c.t, c.place) AS completed_t
FROM completing AS c
LEFT JOIN taken_back AS b ON b.pair = c.pair
WHERE c.place > coalesce(b.place, 0)
GROUP BY c.pair;

-- Begun again: an event came after the completion and after the last mark "watched", and
-- happened no earlier than the completion.
CREATE TABLE begun_again AS
WITH marked AS (
    SELECT pair, max(place) AS place FROM happened WHERE change = 'completed' GROUP BY pair
)

SELECT DISTINCT h.pair
FROM happened AS h
JOIN completed AS c ON c.pair = h.pair
LEFT JOIN marked AS m ON m.pair = h.pair
WHERE h.is_event AND h.t >= c.completed_t AND h.place > greatest(c.place, coalesce(m.place, 0));


-- The answers -----------------------------------------------------------------------------------

CREATE TABLE progress AS
SELECT
    "user",
    slug,
    coalesce(watch_ms, 0) AS watch_ms,
    CASE WHEN by_position() THEN coalesce(unique_ms, 0) END AS unique_ms,
    coalesce(latest[3], 0) AS latest_ms,
    latest[1] AS latest_t,
    coalesce(furthest_ms, 0) AS furthest_ms,
    CASE WHEN by_position() THEN resume_ms(
        coalesce(latest[3], 0), coalesce(own_duration_ms, c.duration_ms)
    ) END AS resume_ms,
    completed_t,
    b.pair IS NOT NULL AS begun_again,
    hidden,
    coalesce(views, 0) AS views,
    events,
    coalesce(own_duration_ms, c.duration_ms) AS duration_ms,
    version
FROM pairs AS p
JOIN moments USING (pair)
LEFT JOIN watched USING (pair)
LEFT JOIN uniquely USING (pair)
LEFT JOIN completed USING (pair)
LEFT JOIN begun_again AS b USING (pair)
LEFT JOIN catalogue_now AS c USING (shard, slug);

CREATE VIEW movies AS
WITH seen AS (
    SELECT
        slug,
        sum(watch_ms)::BIGINT AS watch_ms,
        count(*) FILTER (events > 0) AS viewers,
        sum(views)::BIGINT AS views,
        count(completed_t) AS completions,
        sum(events)::BIGINT AS events
    FROM progress
    GROUP BY slug
),

happening AS (
    SELECT slug, min(first_t) AS first_t, max(last_t) AS last_t
    FROM moments JOIN pairs USING (pair)
    GROUP BY slug
),

-- The same in all shards.
described AS (
    SELECT slug, max((received_ms, duration_ms, title)) AS entry
    FROM catalogue_now
    GROUP BY slug
)

SELECT
    slug,
    coalesce(watch_ms, 0) AS watch_ms,
    coalesce(viewers, 0) AS viewers,
    coalesce(views, 0) AS views,
    coalesce(completions, 0) AS completions,
    coalesce(events, 0) AS events,
    entry[2] AS duration_ms,
    entry[3] AS title,
    first_t,
    last_t
FROM seen
FULL JOIN described USING (slug)
LEFT JOIN happening USING (slug);

CREATE VIEW users AS
SELECT
    "user",
    sum(watch_ms)::BIGINT AS watch_ms,
    count(*) AS movies,
    count(completed_t) AS completed,
    sum(p.events)::BIGINT AS events,
    max(last_t) AS last_t
FROM progress AS p
JOIN pairs USING ("user", slug)
JOIN moments USING (pair)
GROUP BY "user";

-- Retention: bucket k is [k, k + 1) times bucket_ms. A run enters the buckets at that of its
-- start and leaves them after that of its last millisecond; so does a viewer, for the buckets
-- that no run of theirs has entered before. What has entered and not left is in a bucket.
CREATE MACRO bucket_of(at_ms) AS at_ms // bucket_ms();
CREATE MACRO bucket_after(end_ms) AS bucket_of(end_ms - 1) + 1;

CREATE VIEW retention AS
WITH spans AS (
    SELECT
        pair,
        bucket_of(start_ms) AS entered,
        bucket_after(end_ms) AS gone,
        greatest(bucket_of(start_ms), bucket_after(covered_ms)) AS new_entered
    FROM ground
),

changes AS (
    SELECT pair, entered AS bucket, 1 AS plays, 0 AS viewers FROM spans
    UNION ALL
    SELECT pair, gone, -1, 0 FROM spans
    UNION ALL
    SELECT pair, new_entered, 0, 1 FROM spans WHERE new_entered < gone
    UNION ALL
    SELECT pair, gone, 0, -1 FROM spans WHERE new_entered < gone
),

changes_of_movies AS (
    SELECT slug, bucket, sum(plays) AS plays, sum(viewers) AS viewers
    FROM changes JOIN pairs USING (pair)
    GROUP BY slug, bucket
),

levels AS (
    SELECT
        slug,
        bucket,
        lead(bucket) OVER along AS next_bucket,
        sum(plays) OVER along AS plays,
        sum(viewers) OVER along AS viewers
    FROM changes_of_movies
    WINDOW along AS (PARTITION BY slug ORDER BY bucket)
)

SELECT
    slug,
    unnest(range(bucket, next_bucket)) AS bucket,
    viewers::BIGINT AS viewers,
    plays::BIGINT AS plays
FROM levels
WHERE plays > 0;

-- Hours since 1970, UTC; those before `fold_before` count in the first hour of their day.
CREATE VIEW hours AS
WITH credited AS (
    SELECT slug, t // 3600000 AS hour, sum(credit_ms) AS watch_ms
    FROM steps JOIN pairs USING (pair)
    WHERE credit_ms > 0
    GROUP BY ALL
)

SELECT
    slug,
    CASE WHEN hour >= fold_before() THEN hour ELSE hour // 24 * 24 END AS hour,
    sum(watch_ms)::BIGINT AS watch_ms
FROM credited
GROUP BY ALL;
