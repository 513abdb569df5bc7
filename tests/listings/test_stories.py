"""Trap stories, as they are told, and with an SPF record that passes for who really sent."""

import json
from pathlib import Path

import pytest

import trap_stories

pytestmark = pytest.mark.slow

ALL = trap_stories.stories(Path(__file__).parents[1] / "stories")
NAMES = [story["name"] for story in ALL]


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("story", ALL, ids=NAMES)
def test_as_told(story: trap_stories.Story, tmp_path: Path, migrated: Path) -> None:
    assert trap_stories.play(story, tmp_path, migrated).wrong == [], story["what"]


# Where SPF itself is the second witness the story is another one.
ANY_SPF = [story for story in ALL if story.get("spf", True)]


@pytest.mark.parametrize("story", ANY_SPF, ids=[s["name"] for s in ANY_SPF])
def test_with_spf(story: trap_stories.Story, tmp_path: Path, migrated: Path) -> None:
    """SPF may only bring the guilty down sooner: nobody else is listed for it."""
    fewer = {k: v for k, v in story.items() if k != "reasons"}
    assert trap_stories.play(fewer, tmp_path, migrated, spf=True).wrong == [], story["what"]


def test_a_story_can_differ(tmp_path: Path, migrated: Path) -> None:
    """The counter-proof: a story that wants something else is told so."""
    (story,) = (s for s in ALL if s["name"] == "freemail-replayed")
    wrong = json.loads(json.dumps(story))
    wrong["listed"], wrong["not_listed"] = ["gmail.com"], ["203.0.113.36"]
    wrong["reasons"] = ["trap"]
    wrong["scenes"][0][0]["want"] = "accept"
    assert len(trap_stories.play(wrong, tmp_path, migrated).wrong) == 4
