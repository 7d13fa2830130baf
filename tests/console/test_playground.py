"""The playground as a person uses it, in headless Chromium against a gateway with scripted answers.

Every test fails as well when the page logs an error or breaks its own security policy.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.console.fake_gateway import MODEL, REQUEST_ID, FakeGateway, Reply, answer, chunk, data, refusal

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def add_key(page: Page, key: str = "wbk_demo_key", name: str = "") -> None:
    await page.click("#add-key")
    await page.fill("#new-key", key)
    await page.fill("#new-key-name", name)
    await page.keyboard.press("Enter")


async def ready(page: Page, key: str = "wbk_demo_key") -> None:
    await add_key(page, key)
    await page.wait_for_selector("#endpoint:enabled")


async def ask(page: Page, text: str) -> None:
    await page.fill("#message", text)
    await page.press("#message", "Enter")


async def answered(page: Page, count: int = 1) -> None:
    from playwright.async_api import expect  # an import where it is used: it may not be installed

    await expect(page.locator(".answer[aria-busy=false]")).to_have_count(count)


async def test_an_answer_streams_in_with_its_tokens_its_pace_and_its_request_id(
    page: Page, gateway: FakeGateway
) -> None:
    from playwright.async_api import expect

    held = asyncio.Event()
    reply = answer(" A mixture ", "of experts.")
    reply.frames.insert(2, held)
    gateway.replies.append(reply)
    await ready(page)
    await ask(page, "What is it?")
    await expect(page.locator(".answer-body")).to_have_text("A mixture")
    # The page's own clock must move for a pace to be worth a number.
    await page.evaluate("new Promise((resolve) => setTimeout(resolve, 40))")
    held.set()
    await answered(page)
    facts = await page.inner_text(".facts")
    assert await page.inner_text(".answer-body") == "A mixture of experts."
    for shown in ("24 tokens", "87 tokens", "First token", "tokens/s", "mixtral-demo", REQUEST_ID):
        assert shown in facts
    assert "Reserved 280 tokens, used 111, 169 given back." in await page.inner_text(".weight")
    room = await page.inner_text("#room")
    assert "57 of 60" in room and "9,720 of 10,000" in room and "resets in 42s" in room
    sent = gateway.requests[0]
    assert (
        sent["model"] == MODEL
        and sent["stream"] is True
        and sent["stream_options"] == {"include_usage": True}
    )
    assert sent["temperature"] == 0 and sent["max_tokens"] == 256
    assert gateway.authorizations == ["Bearer wbk_demo_key"]


async def test_a_second_turn_repeats_the_first_one_and_the_system_prompt(
    page: Page, gateway: FakeGateway
) -> None:
    gateway.replies.extend([answer("One."), answer("Two.")])
    await ready(page)
    await page.fill("#system", "Be brief.")
    await page.fill("#temperature", "")
    await ask(page, "First?")
    await answered(page)
    await page.fill("#message", "Second")
    await page.press("#message", "Shift+Enter")
    await page.type("#message", "line?")
    await page.press("#message", "Enter")
    await answered(page, 2)
    assert gateway.requests[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "Second\nline?"},
    ]
    assert "temperature" not in gateway.requests[1]


async def test_stop_ends_the_request_and_keeps_what_arrived(page: Page, gateway: FakeGateway) -> None:
    reply = answer("Half an ", "answer")
    reply.frames.insert(2, asyncio.Event())
    gateway.replies.append(reply)
    await ready(page)
    await ask(page, "Tell me all.")
    await page.wait_for_selector(".answer-body p")
    await page.click("#stop")
    await asyncio.wait_for(gateway.client_left.wait(), 5)
    await answered(page)
    assert await page.inner_text(".answer-body") == "Half an "
    assert "You stopped this answer" in await page.inner_text(".answer-note")
    assert await page.is_visible("#send")


async def test_markup_in_an_answer_stays_text(page: Page, gateway: FakeGateway) -> None:
    hostile = '<script>window.canary=1</script><img src=x onerror="window.canary=2"> **bold** [a](javascript:window.canary=3)'
    fenced = "\n\n```html\n<b onclick=1>x</b>\n```\n"
    gateway.replies.append(answer(*(hostile + fenced), prompt=1))
    await ready(page)
    await ask(page, "<img src=x onerror='window.canary=4'>")
    await answered(page)
    assert await page.evaluate("window.canary") is None
    assert await page.locator(".talk script, .talk img, .talk a, .talk b").count() == 0
    assert "<script>window.canary=1</script>" in await page.inner_text(".answer-body")
    assert await page.inner_text(".answer-body strong") == "bold"
    assert await page.inner_text(".answer-body pre") == "<b onclick=1>x</b>"
    assert await page.inner_text(".question") == "<img src=x onerror='window.canary=4'>"


async def test_a_warming_engine_is_waited_for_with_a_countdown(page: Page, gateway: FakeGateway) -> None:
    def warming(seconds: str) -> Reply:
        return refusal(503, "The engine is loading its model.", "engine_warming_up", {"retry-after": seconds})

    gateway.replies.extend([warming("4"), warming("1"), answer("Here I am.")])
    await ready(page)
    await ask(page, "Anyone?")
    seen = page.locator(".failure", has_text="Trying again in")
    assert "The engine is loading its model." in await seen.inner_text()
    await page.wait_for_selector("text=Here I am.")
    assert await page.locator(".failure:visible").count() == 0
    assert len(gateway.requests) == 3


async def test_what_the_gateway_still_waits_for_is_said_until_it_is_ready(
    page: Page, gateway: FakeGateway
) -> None:
    gateway.unready.append({"engine": "loading its model", "postgres": "ok"})
    await page.reload()
    await page.wait_for_selector("text=Not ready yet. engine: loading its model.")
    await page.wait_for_selector("#state", state="hidden")


async def test_stop_ends_the_wait_for_a_warming_engine(page: Page, gateway: FakeGateway) -> None:
    gateway.replies.append(
        refusal(503, "The engine is loading its model.", "engine_warming_up", {"retry-after": "9"})
    )
    await ready(page)
    await ask(page, "Anyone?")
    await page.wait_for_selector("text=Trying again in 9 s")
    await page.keyboard.press("Escape")
    await page.wait_for_selector("text=You stopped the wait.")
    gateway.replies.append(answer("Now."))
    await page.click("text=Try again")
    await page.wait_for_selector("text=Now.")
    assert gateway.requests[1]["messages"] == [{"role": "user", "content": "Anyone?"}]
    assert await page.locator(".answer").count() == 1


async def test_a_limit_says_which_one_and_when_there_is_room_again(page: Page, gateway: FakeGateway) -> None:
    gateway.replies.append(
        refusal(
            429,
            "User demo has 88 of 10,000 tokens a minute left; this request reserves 280.",
            "rate_limit_exceeded",
            {"retry-after": "1", "x-ratelimit-limit-tokens": "10000", "x-ratelimit-remaining-tokens": "88"},
            limit={
                "limit": "0199a0c8-0000-7000-8000-000000000001",
                "metric": "total_tokens",
                "scope": "user 'demo'",
                "amount": 10_000,
                "remaining": 88,
                "requested": 280,
                "window": "minute",
                "resets_at_ms": 1_795_509_600_000,
            },
        )
    )
    await ready(page)
    await ask(page, "More?")
    await page.wait_for_selector("text=Room again in 1 s")
    shown = await page.inner_text(".failure")
    assert (
        "429" in shown
        and "88 of 10,000 tokens a minute left" in shown
        and "user 'demo'" in shown
        and "10,000" in shown
        and REQUEST_ID in shown
    )
    assert "88 of 10,000" in await page.inner_text("#room")
    assert await page.is_disabled("text=Try again")
    await page.wait_for_selector("button:enabled:text('Try again')")
    gateway.replies.append(answer("Yes."))
    await page.click("text=Try again")
    await page.wait_for_selector("text=Yes.")


@pytest.mark.parametrize(
    ("status", "code", "headers", "advice"),
    [
        (401, "invalid_api_key", {}, "Check that it was pasted whole"),
        (403, "permission_denied", {}, "Ask an administrator for CAN_QUERY"),
        (404, "model_not_found", {}, "Read the list of endpoints again"),
        (429, "insufficient_quota", {"x-should-retry": "false"}, "Trying again soon will not help"),
        (502, "upstream_failed", {}, "give the request id to your administrator"),
        (503, "out_of_service", {"x-should-retry": "false"}, "weighbridge doctor"),
    ],
)
async def test_a_refusal_is_shown_whole_with_what_to_do(
    page: Page, gateway: FakeGateway, status: int, code: str, headers: dict[str, str], advice: str
) -> None:
    gateway.replies.append(refusal(status, f"The words of the gateway for {code}.", code, headers))
    await ready(page)
    await ask(page, "May I?")
    await answered(page)
    shown = await page.inner_text(".failure")
    assert (
        str(status) in shown
        and f"The words of the gateway for {code}." in shown
        and advice in shown
        and REQUEST_ID in shown
    )


async def test_a_refused_question_is_not_repeated_in_the_next_request(
    page: Page, gateway: FakeGateway
) -> None:
    gateway.replies.extend([refusal(502, "It failed.", "upstream_failed"), answer("Fine.")])
    await ready(page)
    await ask(page, "First?")
    await answered(page)
    await ask(page, "Second?")
    await answered(page, 2)
    assert gateway.requests[1]["messages"] == [{"role": "user", "content": "Second?"}]


async def test_a_stream_that_fails_midway_keeps_its_text_and_says_so(
    page: Page, gateway: FakeGateway
) -> None:
    error = {"message": "The model's server went away.", "type": "server_error", "code": "upstream_failed"}
    gateway.replies.append(Reply(frames=[chunk({"content": "Half"}), data({"error": error})]))
    await ready(page)
    await ask(page, "All?")
    await answered(page)
    assert await page.inner_text(".answer-body") == "Half"
    assert "The model's server went away." in await page.inner_text(".failure")


async def test_a_stream_without_its_end_does_not_pass_for_a_whole_answer(
    page: Page, gateway: FakeGateway
) -> None:
    gateway.replies.append(Reply(frames=[chunk({"content": "Half"})]))
    await ready(page)
    await ask(page, "All?")
    await answered(page)
    assert "ended before the answer was complete" in await page.inner_text(".failure")


async def test_an_answer_ended_by_a_limit_names_the_limit(page: Page, gateway: FakeGateway) -> None:
    reply = answer("Cut")
    reply.frames[2] = chunk(
        {},
        finish="length",
        weighbridge={"stopped_by": "limit", "limit": "demo-tokens", "scope": "user 'demo'"},
    )
    gateway.replies.append(reply)
    await ready(page)
    await ask(page, "All?")
    await answered(page)
    assert (
        "A limit of user 'demo' had no room for more, so the answer ends here (limit demo-tokens)."
        in await page.inner_text(".answer-note")
    )


async def test_frames_may_be_cut_anywhere_even_inside_a_character(page: Page, gateway: FakeGateway) -> None:
    whole = b"".join(frame for frame in answer("Grüße, 秤", ".").frames if isinstance(frame, bytes))
    escaped = whole.replace(b"Gr\\u00fc\\u00dfe, \\u79e4", "Grüße, 秤".encode()).replace(b"\n", b"\r\n")
    gateway.replies.append(
        Reply(frames=[b": hello\r\n\r\n", *(escaped[at : at + 1] for at in range(len(escaped)))])
    )
    await ready(page)
    await ask(page, "Hello?")
    await answered(page)
    assert await page.inner_text(".answer-body") == "Grüße, 秤."


async def test_keys_live_in_the_tab_and_the_chosen_one_is_remembered(
    page: Page, gateway: FakeGateway
) -> None:
    await ready(page)
    await add_key(page, "wbk_other_key", "other")
    await page.wait_for_selector("text=2 endpoints that this key may query.")
    await page.select_option("#key", "0")
    await page.wait_for_selector("text=The one endpoint this key may query.")
    await page.select_option("#key", "1")
    await page.reload()
    await page.wait_for_selector("text=2 endpoints that this key may query.")
    assert await page.evaluate("localStorage.length") == 0
    assert await page.evaluate("document.cookie") == ""
    assert "wbk_other_key" not in await page.content()
    await page.click("#forget-key")
    await page.wait_for_selector("text=The one endpoint this key may query.")
    assert "wbk_other_key" not in await page.evaluate("JSON.stringify(sessionStorage)")


async def test_an_administrators_key_is_exchanged_for_a_token_that_ends(
    page: Page, gateway: FakeGateway
) -> None:
    boss, user = "gk_live_AAAAAAAAAAAA_secret-of-the-boss", "gk_live_BBBBBBBBBBBB_secret-of-a-user"
    gateway.roles = {boss: ["admin"], user: []}
    gateway.session = ("ey.token.x", "2099-01-01T12:00:00+00:00")
    gateway.endpoints |= {"ey.token.x": [MODEL], user: [MODEL]}
    await add_key(page, boss)
    await page.wait_for_selector("text=this tab keeps a token, not your key")
    await page.wait_for_selector("text=The one endpoint this key may query.")
    assert "secret-of-the-boss" not in await page.evaluate("JSON.stringify(sessionStorage)")
    gateway.replies.append(answer("Yes."))
    await ask(page, "Hello?")
    await answered(page)
    assert gateway.authorizations == ["Bearer ey.token.x"]
    await add_key(page, user)
    await page.wait_for_selector("text=Kept in this browser tab only")
    assert "secret-of-a-user" in await page.evaluate("JSON.stringify(sessionStorage)")
    await page.evaluate(
        "sessionStorage.setItem('weighbridge.keys', JSON.stringify([{key: 'ey.token.x', label: 'old', until: 1}]))"
    )
    await page.reload()
    await page.wait_for_selector("text=Add a key to see what it may query.")


async def test_a_wrong_key_is_said_before_anything_is_asked(page: Page, gateway: FakeGateway) -> None:
    await add_key(page, "wbk_wrong")
    await page.wait_for_selector("text=Incorrect API key provided")
    assert await page.is_disabled("#endpoint")
    assert gateway.requests == []


async def test_the_conversation_as_code_holds_no_key_and_quotes_safely(
    page: Page, gateway: FakeGateway
) -> None:
    gateway.replies.append(answer('It\'s "fine".'))
    await ready(page)
    await ask(page, "It's $(rm -rf /) and \\n")
    await answered(page)
    await page.click("#show-code")
    curl = await page.inner_text("#code")
    assert "It'\\''s $(rm -rf /) and \\\\n" in curl and "$OPENAI_API_KEY" in curl
    await page.click("#tab-openai")
    openai = await page.inner_text("#code")
    await page.keyboard.press("ArrowRight")
    mlflow = await page.inner_text("#code")
    compile(openai, "openai", "exec")
    compile(mlflow, "mlflow", "exec")
    assert 'get_deploy_client("databricks")' in mlflow and "stream=True" in openai
    assert "wbk_demo_key" not in curl + openai + mlflow


async def test_a_new_conversation_starts_empty_even_while_an_answer_is_on_its_way(
    page: Page, gateway: FakeGateway
) -> None:
    reply = answer("Half an ", "answer")
    reply.frames.insert(2, asyncio.Event())
    gateway.replies.extend([reply, answer("Fresh.")])
    await ready(page)
    await ask(page, "First?")
    await page.wait_for_selector(".answer-body p")
    await page.click("#new-conversation")
    await asyncio.wait_for(gateway.client_left.wait(), 5)
    assert await page.is_visible("#empty")
    await ask(page, "Second?")
    await answered(page)
    assert gateway.requests[1]["messages"] == [{"role": "user", "content": "Second?"}]


async def test_every_control_has_a_name_and_a_narrow_screen_does_not_scroll_sideways(
    page: Page, gateway: FakeGateway
) -> None:
    gateway.replies.append(answer("word " * 40, "\n```\n" + "x" * 300 + "\n```\n"))
    await ready(page)
    await ask(page, "y" * 300)
    await answered(page)
    nameless = await page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea')].filter((node) =>
            !(node.labels?.length || node.textContent.trim() || node.getAttribute('aria-label'))).map((node) => node.outerHTML)"""
    )
    assert nameless == []
    await page.set_viewport_size({"width": 360, "height": 640})
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.click("#open-side")
    assert await page.is_visible("#endpoint")
    await page.keyboard.press("Escape")
    assert await page.is_hidden("#endpoint")
