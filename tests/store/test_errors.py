"""Messages: one printable line of bounded length, from any text."""

import pytest

from twostage_jax.errors import MESSAGE_LIMIT, UserError, did_you_mean, printable, shown


def test_a_message_is_one_printable_line_of_bounded_length():
    nasty = "a\x1b[31mred\r\x07\u202eabc\udc80\t\x9b"
    text = str(UserError(f"the file {nasty} is\n  broken: {'x' * 10**6}!"))
    assert text.isprintable() and "\\x1b[31mred" in text and "is broken" in text
    assert len(text) <= MESSAGE_LIMIT and text.endswith("x!")
    text.encode("utf-8")
    assert printable("Straße, 猫 and \\") == "Straße, 猫 and \\"
    assert str(UserError("one \n\n  two\r\nthree\n")) == "one two three"
    assert str(UserError("a  name   with blanks")) == "a  name   with blanks"


@pytest.mark.parametrize("part", [" ", "\n", " \n", "x", "\U0010ffff", "\x1b", "\ud800", "\u2028"])
def test_a_message_of_a_million_characters_is_one_line(part):
    # A regular expression for line ends took an hour for white space alone.
    text = str(UserError(f"the key {part * 10**6} is unknown"))
    assert text.startswith("the key") and text.endswith("is unknown")
    assert text.isprintable() and len(text) <= MESSAGE_LIMIT


def test_any_value_can_be_shown():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert shown("a\n") == r"'a\n'"
    assert shown(10**5000) == "a int that is too large to print"
    assert shown(deep) == "a list that is too large to print"
    assert len(shown("x" * 1000)) <= 200


def test_the_closest_name_is_suggested_and_the_list_is_bounded():
    names = ["blog", "quick", "photos"]
    assert did_you_mean("blgo", names) == "did you mean 'blog'? choose from blog, quick, photos"
    assert did_you_mean("zzz", names, limit=2) == "choose from blog, quick, and 1 more"
    assert "blog" in did_you_mean("x" * 10**6, names)
