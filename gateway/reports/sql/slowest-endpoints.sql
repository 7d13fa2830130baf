-- The slowest endpoints: seconds that half, and 95 of 100, of their answers took at most
-- bar: p95
-- span: 1
SELECT endpoint_name AS endpoint, count(*) AS requests,
       round(percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_seconds), 3) AS p50,
       round(percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_seconds), 3) AS p95,
       round(percentile_disc(0.95) WITHIN GROUP (ORDER BY first_byte_seconds), 3) AS p95_first_byte,
       count(*) FILTER (WHERE status IN ('error', 'interrupted')) AS errors
FROM serving.endpoint_usage
WHERE request_time >= :from AND request_time < :to AND (:group IS NULL OR :group IN (group_name, group_id))
GROUP BY endpoint_name
ORDER BY p95 DESC, 1
