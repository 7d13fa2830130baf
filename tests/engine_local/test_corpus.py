"""What the demonstration model is taught, and what is kept from it."""

from __future__ import annotations

import random

import pytest

from engines.local.model.corpus import AREAS, FOLDER, FRAMES, HELD_FRAMES, REFUSAL, Corpus, load, parse, plain
from engines.local.model.phrasing import corrupted, unknown, vary
from engines.local.model.sampler import Sampler

ANNOUNCED = (
    "What is a mixture of experts model?",
    "Describe Databricks SQL in 30 words.",
    "What is Mixtral?",
    "Hello",
    "What is a weighbridge?",
    "How do I make a first call?",
    "What can you do?",
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load()


def test_there_are_a_few_hundred_items_each_with_a_phrasing_kept_back(corpus: Corpus) -> None:
    assert len(corpus.items) >= 250
    assert len(corpus.capitals) >= 50
    assert all(item.held for item in corpus.items)
    assert len(corpus.unknown_held) >= 40


def test_no_phrasing_that_is_measured_is_trained_on(corpus: Corpus) -> None:
    assert not set(FRAMES) & set(HELD_FRAMES)
    for item in (*corpus.items, *corpus.capitals, *corpus.sums):
        for question in item.asked:
            assert not corpus.is_held(question), question


def test_the_sampler_never_draws_a_held_out_phrasing(corpus: Corpus) -> None:
    sampler = Sampler(corpus, seed=7)
    drawn = [sampler.pair() for _ in range(5000)]
    assert not [question for question, _ in drawn if corpus.is_held(question)]
    refused = sum(1 for _, answer in drawn if answer == REFUSAL)
    assert 0.15 < refused / len(drawn) < 0.4


def test_the_same_seed_draws_the_same_conversations(corpus: Corpus) -> None:
    one, two = Sampler(corpus, seed=3), Sampler(corpus, seed=3)
    assert [one.conversation() for _ in range(50)] == [two.conversation() for _ in range(50)]


def test_no_question_has_two_answers(corpus: Corpus) -> None:
    answers: dict[str, str] = {}
    for item in (*corpus.items, *corpus.capitals, *corpus.sums):
        for question in (*item.asked, *item.held, *(f"What is {topic}?" for topic in item.topics)):
            assert answers.setdefault(plain(question), item.answer) == item.answer, question


def test_the_prompts_of_the_announcement_are_taught(corpus: Corpus) -> None:
    taught = {
        plain(text)
        for item in corpus.items
        for text in (*item.asked, *(frame.format(x=topic, n=30) for topic in item.topics for frame in FRAMES))
    }
    assert not [prompt for prompt in ANNOUNCED if plain(prompt) not in taught]


def test_databricks_sql_is_described_in_thirty_words(corpus: Corpus) -> None:
    (answer,) = {item.answer for item in corpus.items if "Databricks SQL" in item.topics}
    assert len(answer.split()) == 30


def test_the_files_are_ascii_and_say_their_licence() -> None:
    for path in FOLDER.iterdir():
        path.read_text("ascii")
    assert "Apache-2.0" in (FOLDER / "README.md").read_text()


def test_answers_are_short_sentences(corpus: Corpus) -> None:
    for item in corpus.items:
        assert len(item.answer.split()) <= 90, item.answer


@pytest.mark.parametrize("text", ["ask: a\nsay: b\n", "ask: a\nheld: b\n", "what: a\n", "ask a\n"])
def test_an_item_that_is_not_whole_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"software:\d+"):
        parse("software", text)


def test_a_question_whose_main_word_is_changed_asks_for_something_else(corpus: Corpus) -> None:
    rng = random.Random(1)
    broken = corrupted("What is the capital of France?", corpus, rng)
    assert broken is not None
    assert "France" not in broken
    assert all(unknown(corpus, rng).strip() for _ in range(500))


def test_variations_are_many(corpus: Corpus) -> None:
    rng = random.Random(1)
    assert len({vary("How do I create a key for a user?", rng) for _ in range(300)}) > 60


def test_every_area_has_its_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {*AREAS, "capitals", "unknown", "words", "systems"}
