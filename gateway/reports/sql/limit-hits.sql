-- Which limits and budgets had no room, and for whom
-- bar: hits
-- span: 7
SELECT kind, coalesce(rule, '') AS rule, coalesce(limit_name, limit_id, '') AS limit_name, coalesce(metric, '') AS metric,
       coalesce(principal_name, principal_id) AS principal, sum(hits)::bigint AS hits, max(event_time) AS last_time
FROM access.limit_hits
WHERE event_time >= :from AND event_time < :to
GROUP BY 1, 2, 3, 4, 5
ORDER BY hits DESC, 1, 2, 3, 4, 5
LIMIT 200
