-- Money given back, or charged later, and why
SELECT counts_date, coalesce(principal_name, principal_id) AS principal, coalesce(group_name, '') AS charged_group,
       cost_nano_usd, cost_usd, entered_by, reason
FROM billing.credits
WHERE counts_time >= :from AND counts_time < :to AND (:group IS NULL OR :group IN (group_name, group_id))
ORDER BY counts_time DESC
LIMIT 500
