"""The admin API put together: every route behind the one guard."""

from __future__ import annotations

from litestar import Router
from litestar.di import Provide

from gateway.http.admin.access import ControlPlane, Guard, bodies_and_keys, keeping_answers, provide_admin
from gateway.http.admin.adapters import Adapters
from gateway.http.admin.audit import read_audit
from gateway.http.admin.budget_balances import balance
from gateway.http.admin.budget_increases import Increases
from gateway.http.admin.budgets import Budgets
from gateway.http.admin.credits import Credits
from gateway.http.admin.declarations import apply_declaration, export_declaration, plan_declaration
from gateway.http.admin.effective import effective
from gateway.http.admin.endpoints import Endpoints
from gateway.http.admin.explain import explain_call
from gateway.http.admin.grants import Grants, grant_many
from gateway.http.admin.groups import Groups
from gateway.http.admin.issuers import Issuers
from gateway.http.admin.keys import Keys
from gateway.http.admin.limits import Limits
from gateway.http.admin.members import Members
from gateway.http.admin.own_keys import OwnKeys
from gateway.http.admin.prices import Prices
from gateway.http.admin.principals import ServicePrincipals, Users, me
from gateway.http.admin.providers import Providers
from gateway.http.admin.sessions import sign_in, sign_out
from gateway.http.admin.sql_roles import SqlRoles
from gateway.http.admin.throughput import ThroughputPools, ThroughputProvisions
from gateway.http.admin.webhooks import Webhooks


def admin_routes(control: ControlPlane) -> list[Router]:
    """Everything under /admin/v1."""
    return [
        Router(
            "/admin/v1",
            guards=[Guard(control)],
            before_request=bodies_and_keys(control),
            after_request=keeping_answers(control),
            dependencies={"admin": Provide(provide_admin(control))},
            route_handlers=[
                me,
                Users,
                ServicePrincipals,
                Groups,
                Members,
                Keys,
                OwnKeys,
                Issuers,
                SqlRoles,
                sign_in,
                sign_out,
                Endpoints,
                Grants,
                grant_many,
                Limits,
                Budgets,
                Increases,
                balance,
                Credits,
                Prices,
                Providers,
                Adapters,
                ThroughputPools,
                ThroughputProvisions,
                Webhooks,
                effective,
                plan_declaration,
                apply_declaration,
                export_declaration,
                explain_call,
                read_audit,
            ],
        )
    ]
