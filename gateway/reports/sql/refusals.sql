-- Who was refused, why, and by which limit
-- bar: refusals
-- span: 7
SELECT coalesce(principal_name, principal_id, address, '(unknown)') AS caller, plane, code,
       coalesce(limit_name, limit_id, '') AS limit_name, sum(refusals)::bigint AS refusals, max(event_time) AS last_time
FROM access.refusals
WHERE event_time >= :from AND event_time < :to
GROUP BY 1, 2, 3, 4
ORDER BY refusals DESC, 1, 2, 3, 4
LIMIT 200
