-- What went wrong after admission, by endpoint and code
-- bar: requests
-- span: 7
SELECT endpoint_name AS endpoint, status, coalesce(error_code, '') AS error_code, coalesce(stopped_by, '') AS stopped_by,
       count(*) AS requests, max(request_time) AS last_time
FROM serving.endpoint_usage
WHERE request_time >= :from AND request_time < :to AND status <> 'ok' AND (:group IS NULL OR :group IN (group_name, group_id))
GROUP BY 1, 2, 3, 4
ORDER BY requests DESC, 1, 2, 3, 4
