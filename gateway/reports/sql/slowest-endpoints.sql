-- The slowest endpoints: half and nearly all of their answers took at most so long
-- bar: p95_seconds
-- span: 1
SELECT endpoint_name AS endpoint, count(*) AS requests,
       round(percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_seconds), 3) AS p50_seconds,
       round(percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_seconds), 3) AS p95_seconds,
       round(percentile_disc(0.95) WITHIN GROUP (ORDER BY first_byte_seconds), 3) AS first_byte_p95_seconds,
       round(avg(queue_seconds), 6) AS avg_queue_seconds,
       count(*) FILTER (WHERE status IN ('error', 'interrupted')) AS errors
FROM serving.endpoint_usage
WHERE request_time >= :from AND request_time < :to AND (:group IS NULL OR :group IN (group_name, group_id))
GROUP BY endpoint_name
ORDER BY p95_seconds DESC, 1
