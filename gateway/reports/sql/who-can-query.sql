-- Who may query which endpoint, and by which rule; with --to as of a moment that has passed
SELECT principal_name AS principal, principal_kind AS kind, endpoint_name AS endpoint, permission, held_by,
       coalesce(group_name, '') AS through_group
FROM access.who_can_query(:to)
WHERE :group IS NULL OR group_name = :group
ORDER BY endpoint, principal
