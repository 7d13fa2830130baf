-- Who signed in, newest first
SELECT event_time, actor, action, object_id
FROM access.logins
WHERE event_time >= :from AND event_time < :to
ORDER BY number DESC
LIMIT 500
