-- Who changed what, newest first
SELECT event_time, actor, action, coalesce(after ->> 'name', before ->> 'name', object_id) AS object, coalesce(reason, '') AS reason
FROM access.admin_actions
WHERE event_time >= :from AND event_time < :to
ORDER BY number DESC
LIMIT 500
