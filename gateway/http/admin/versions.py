"""What every object of the admin API shares: pages in order of id, and versions that keep writers apart.

A change names the version it was made for (`If-Match`); where that is no longer the present one, nothing happens.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from litestar import Response
from litestar.params import HeaderParameter, QueryParameter
from msgspec import UNSET, Meta, Struct

from gateway.errors import BadRequest, Conflict
from gateway.store.reading import Row

T = TypeVar("T")


class PreconditionRequired(BadRequest):
    """A change came without the version that it was made for."""

    status, code = 428, "precondition_required"


class PreconditionFailed(Conflict):
    """The object is no longer at the version that the change was made for."""

    status, code = 412, "version_mismatch"


class Page(Struct, Generic[T], frozen=True):
    """One page of a list, in order of id."""

    items: list[T]
    next: Annotated[
        str | None, Meta(description="Pass as `after` to get the next page; null on the last one.")
    ] = None


Name = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["alice@example.com"])
]
FreeText = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")]
Moment = Annotated[datetime, Meta(tz=True, examples=["2027-01-01T00:00:00Z"])]
After = Annotated[
    UUID | None, QueryParameter(description="Id after which the page begins: `next` of the page before.")
]
Size = Annotated[int, QueryParameter(name="limit", ge=1, le=200, description="Objects a page holds at most.")]
Filter = Annotated[str | None, QueryParameter(max_length=256, pattern=r"^[^\x00]*$")]
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match", description='The `ETag` of the version that the change is for, such as `"42"`.'
    ),
]


def etag(row: Row) -> str:
    """The version's entity tag."""
    return f'"{row["from_change"]}"'


def versioned(row: Row, shown: T, *, status_code: int = 200) -> Response[T]:
    """An answer that carries the object's version."""
    return Response(shown, status_code=status_code, headers={"etag": etag(row)})


def require_match(row: Row, if_match: str | None) -> None:
    """Raise unless the change was made for the present version."""
    if if_match is None:
        raise PreconditionRequired(
            "Send If-Match with the ETag of the version that you read, so that no other change is overwritten.",
            param="If-Match",
        )
    tags = {tag.strip().removeprefix("W/") for tag in if_match.split(",")}
    if "*" not in tags and etag(row) not in tags:
        raise PreconditionFailed(
            f"It was changed meanwhile (now at version {etag(row)}); read it again, then repeat the change.",
            param="If-Match",
        )


def set_fields(data: Struct) -> dict[str, Any]:
    """The fields of a patch that were given; UNSET ones are left as they are."""
    values = {name: getattr(data, name) for name in data.__struct_fields__}
    return {name: value for name, value in values.items() if value is not UNSET}


def optional_id(value: UUID | None) -> str | None:
    """An id as the tables hold it."""
    return None if value is None else str(value)
